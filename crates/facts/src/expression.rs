//! Expressions of the Common Expression Language.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use cel::{
    Context, Env, IdedExpr, Program,
    common::ast::{EntryExpr, Expr},
    objects::Key,
};

use crate::{Fact, Facts, Headers, Kept, NAMES, Value};

/// An expression about a request. What it names is known to be a fact; whether there is one is seen each time.
///
/// It is no program: it has at most 1 024 bytes and 64 levels, and goes through no lists.
#[derive(Clone)]
pub struct Expression(Arc<Parts>);

struct Parts {
    text: String,
    program: Program,
    needs: Vec<Attribute>,
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
        let program = Program::compile(text).map_err(|errors| syntax(&errors))?;
        let mut needs = Vec::new();
        look(program.expression(), 0, &mut needs)?;
        Ok(Self(Arc::new(Parts {
            text: text.to_owned(),
            program,
            needs,
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
        self.0.program.execute(&context).ok()
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

/// Finds what an expression names.
fn look(
    expr: &IdedExpr,
    level: usize,
    needs: &mut Vec<Attribute>,
) -> Result<(), InvalidExpression> {
    if level > DEEPEST {
        return Err(InvalidExpression::TooLong);
    }
    let mut below = |expr: &IdedExpr| look(expr, level + 1, needs);
    match &expr.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => Err(InvalidExpression::Unknown(name.clone())),
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(object) => {
                let found = attribute(object, &select.field)?;
                if !needs.contains(&found) {
                    needs.push(found);
                }
                Ok(())
            }
            _ => below(&select.operand),
        },
        Expr::Call(call) => {
            let parts = call.target.as_deref().into_iter().chain(&call.args);
            parts.into_iter().try_for_each(below)
        }
        Expr::List(list) => list.elements.iter().try_for_each(below),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                below(&entry.key)?;
                below(&entry.value)
            }
            EntryExpr::StructField(field) => below(&field.value),
        }),
        Expr::Comprehension(_) => Err(InvalidExpression::Unsupported("macros over lists")),
        Expr::Struct(_) => Err(InvalidExpression::Unsupported("messages")),
    }
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
/// What every expression may use besides facts.
static ENV: OnceLock<Arc<Env>> = OnceLock::new();
const LONGEST: usize = 1024;
const DEEPEST: usize = 64;

#[cfg(test)]
mod tests;
