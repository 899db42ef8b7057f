//! Expressions of the Common Expression Language.

use std::{
    collections::BTreeMap,
    fmt,
    panic::catch_unwind,
    sync::{Arc, OnceLock},
};

use cel::{
    Context, Env, IdedExpr, Program,
    common::ast::{CallExpr, Expr, LiteralValue},
    extractors::This,
    objects::Key,
};
use regex::{Regex, RegexBuilder};

use crate::{Fact, Facts, Headers, Kept, NAMES, Value};

/// An expression about a request. What it names is known to be a fact; whether there is one is seen each time.
///
/// It is no program: it has at most 1 024 bytes and 64 levels, and goes through no lists.
#[derive(Clone)]
pub struct Expression(Arc<Parts>);

struct Parts {
    text: String,
    expression: IdedExpr,
    needs: Vec<Attribute>,
    /// Compiled once: the engine would do so each time. The calls of each are named by its place.
    patterns: Vec<Regex>,
}

/// What an expression is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExpression {
    /// Its text is no expression.
    #[error("is no expression: {0}")]
    Syntax(String),
    /// It is too long, or too deep.
    #[error("is longer than {LONGEST} bytes, or deeper than {DEEPEST} levels")]
    TooLong,
    /// It names something that nobody knows.
    #[error("{0:?} is no attribute that is known here")]
    Unknown(String),
    /// It calls what is no function here, or otherwise than that is called.
    #[error("{0:?} is no function that can be called so here")]
    Function(String),
    /// A pattern that is none, is too large, or is not written in the expression.
    #[error("a pattern is a text in the expression, of RE2, and not too large: {0:?}")]
    Pattern(String),
    /// It needs more than is offered.
    #[error("{0} are not possible here")]
    Unsupported(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attribute {
    object: &'static str,
    member: &'static str,
    is: Is,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Fact(Fact),
    Headers(Headers),
}

impl Expression {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, InvalidExpression> {
        if text.len() > LONGEST || depth(text) > DEEPEST {
            return Err(InvalidExpression::TooLong);
        }
        // Its grammar is generated code with assertions of its own, and whoever may write an expression must not end a process.
        let program = catch_unwind(|| Program::compile(text));
        let program =
            program.map_err(|_| InvalidExpression::Syntax("it cannot be read".to_owned()))?;
        let program = program.map_err(|errors| syntax(&errors))?;
        let mut expression = program.expression().clone();
        let mut found = Found::default();
        found.look(&mut expression, 0)?;
        Ok(Self(Arc::new(Parts {
            text: text.to_owned(),
            expression,
            needs: found.needs,
            patterns: found.patterns,
        })))
    }

    /// What has to be kept for it.
    pub fn keeps(&self) -> Kept {
        let mut kept = Kept::default();
        for need in &self.0.needs {
            if let Is::Headers(of) = need.is {
                kept.add(of);
            }
        }
        kept
    }

    /// Whether it is true. What cannot be told is not.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        matches!(self.evaluate(facts), Some(cel::Value::Bool(true)))
    }

    /// What it says; `None` if that cannot be told.
    pub fn text(&self, facts: &dyn Facts) -> Option<String> {
        match self.evaluate(facts)? {
            cel::Value::String(text) => Some(text.as_ref().clone()),
            cel::Value::Bool(is_so) => Some(is_so.to_string()),
            cel::Value::Int(number) => Some(number.to_string()),
            cel::Value::UInt(number) => Some(number.to_string()),
            cel::Value::Float(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn evaluate(&self, facts: &dyn Facts) -> Option<cel::Value> {
        let mut context =
            Context::with_env(Arc::clone(ENV.get_or_init(|| Arc::new(Env::stdlib()))));
        for (object, members) in self.objects(facts) {
            context.add_variable_from_value(object, members);
        }
        for (number, pattern) in self.0.patterns.iter().enumerate() {
            let pattern = pattern.clone();
            let fits = move |This(text): This<Arc<String>>| pattern.is_match(&text);
            context.add_function(&fits_name(number), fits).ok()?;
        }
        context.resolve(&self.0.expression).ok()
    }

    /// What it names, as far as that is known.
    fn objects(&self, facts: &dyn Facts) -> BTreeMap<&'static str, Members> {
        let mut objects = BTreeMap::<&str, Members>::new();
        for need in &self.0.needs {
            let members = objects.entry(need.object).or_default();
            let value = match need.is {
                Is::Fact(fact) => facts.value(fact).map(of),
                Is::Headers(of) => {
                    let all = facts.headers(of).into_iter();
                    let all = all.map(|(name, value)| (Key::from(name), value.into()));
                    Some(all.collect::<Members>().into())
                }
            };
            if let Some(value) = value {
                members.insert(need.member.into(), value);
            }
        }
        objects
    }
}

type Members = std::collections::HashMap<Key, cel::Value>;

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.0.text)
    }
}

fn of(value: Value<'_>) -> cel::Value {
    match value {
        Value::Number(number) => number.into(),
        Value::Bool(is_so) => is_so.into(),
        Value::Text(_) | Value::Time(_) => value.to_text().into_owned().into(),
    }
}

fn syntax(errors: &cel::ParseErrors) -> InvalidExpression {
    let text = errors.to_string();
    let first = text.lines().next().unwrap_or_default();
    InvalidExpression::Syntax(first.to_owned())
}

/// How deep a text may lead whoever reads it: brackets, and signs in front of something.
fn depth(text: &str) -> usize {
    let (mut open, mut signs, mut deepest) = (0_usize, 0, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        signs = match byte {
            b'!' | b'-' | b'?' => signs + 1,
            b' ' | b'\t' | b'\r' | b'\n' => signs,
            _ => 0,
        };
        deepest = deepest.max(open + signs);
    }
    deepest
}

/// What an expression names.
#[derive(Default)]
struct Found {
    needs: Vec<Attribute>,
    patterns: Vec<Regex>,
}

impl Found {
    fn look(&mut self, expr: &mut IdedExpr, level: usize) -> Result<(), InvalidExpression> {
        if level > DEEPEST {
            return Err(InvalidExpression::TooLong);
        }
        match &mut expr.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => Err(InvalidExpression::Unknown(name.clone())),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(object) => {
                    let found = attribute(object, &select.field)?;
                    if !self.needs.contains(&found) {
                        self.needs.push(found);
                    }
                    Ok(())
                }
                _ => self.look(&mut select.operand, level + 1),
            },
            Expr::Call(call) => {
                self.call(call)?;
                let parts = call.target.as_deref_mut().into_iter().chain(&mut call.args);
                parts
                    .into_iter()
                    .try_for_each(|part| self.look(part, level + 1))
            }
            Expr::List(list) => {
                let mut elements = list.elements.iter_mut();
                elements.try_for_each(|element| self.look(element, level + 1))
            }
            Expr::Map(_) => Err(InvalidExpression::Unsupported("maps")),
            Expr::Comprehension(_) => Err(InvalidExpression::Unsupported("macros over lists")),
            Expr::Struct(_) => Err(InvalidExpression::Unsupported("messages")),
        }
    }

    /// Whether there is such a function. A pattern becomes one of its own.
    fn call(&mut self, call: &mut CallExpr) -> Result<(), InvalidExpression> {
        let name = call.func_name.as_str();
        // Signs are called so.
        let is_sign = name.starts_with(['_', '!', '-', '@']);
        let shape = (name, call.target.is_some(), call.args.len());
        if !is_sign && !FUNCTIONS.contains(&shape) {
            return Err(InvalidExpression::Function(name.to_owned()));
        }
        if name != "matches" {
            return Ok(());
        }
        let pattern = match call.args.pop().map(|argument| argument.expr) {
            Some(Expr::Literal(LiteralValue::String(pattern))) => pattern.inner().to_owned(),
            _ => return Err(InvalidExpression::Pattern(self.patterns.len().to_string())),
        };
        let made = RegexBuilder::new(&pattern).size_limit(LARGEST).build();
        let made = made.map_err(|_| InvalidExpression::Pattern(pattern))?;
        call.func_name = fits_name(self.patterns.len());
        self.patterns.push(made);
        Ok(())
    }
}

fn fits_name(number: usize) -> String {
    format!("fits{number}")
}

fn attribute(object: &str, member: &str) -> Result<Attribute, InvalidExpression> {
    let name = format!("{object}.{member}");
    let facts = NAMES.iter();
    let mut facts =
        facts.flat_map(|(fact, _, names)| names.iter().map(|name| (*name, Is::Fact(*fact))));
    let headers = HEADERS.iter().copied();
    let found = facts.find(|(known, _)| *known == name);
    let found = found.or_else(|| headers.into_iter().find(|(known, _)| *known == name));
    let (known, is) = found.ok_or_else(|| InvalidExpression::Unknown(name.clone()))?;
    let (object, member) = known
        .split_once('.')
        .ok_or(InvalidExpression::Unknown(name))?;
    Ok(Attribute { object, member, is })
}

const HEADERS: [(&str, Is); 2] = [
    ("request.headers", Is::Headers(Headers::Request)),
    ("response.headers", Is::Headers(Headers::Response)),
];
/// What may be called, whether of something, and with how many others.
const FUNCTIONS: [(&str, bool, usize); 11] = [
    ("size", false, 1),
    ("size", true, 0),
    ("startsWith", true, 1),
    ("endsWith", true, 1),
    ("contains", true, 1),
    ("matches", true, 1),
    ("string", false, 1),
    ("int", false, 1),
    ("uint", false, 1),
    ("double", false, 1),
    ("bool", false, 1),
];
/// Bytes of a compiled pattern.
const LARGEST: usize = 256 << 10;
/// What every expression may use besides facts.
static ENV: OnceLock<Arc<Env>> = OnceLock::new();
const LONGEST: usize = 1024;
const DEEPEST: usize = 64;

#[cfg(test)]
mod tests;
