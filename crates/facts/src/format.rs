//! What a line looks like: text with operators in it, or an object of such texts.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value as Json};

use crate::{
    Fact, Facts, Headers, Kept, NAMES, Value,
    names::{formatted, grpc_status},
};

/// How lines are written. A value cannot forge a line: what would end one, or a quotation, is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text(Vec<Piece>),
    Labels {
        labels: Vec<(String, Vec<Piece>)>,
        /// What is not known is left out.
        leaves_out: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Operator { what: What, longest: Option<usize> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Fact(Fact),
    /// The name of a status of gRPC.
    GrpcStatus,
    /// When it began, in a form of its own.
    Began(String),
    Header(Headers, Name, Option<Name>),
    /// Known to others, and to nobody here.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Header(String),
    Fact(Fact),
}

/// What a format is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFormat {
    /// A percent sign that begins nothing. Two of them are one.
    #[error("an operator is not ended: {0:?}")]
    Unended(String),
    /// An operator that nobody knows.
    #[error("{0:?} is no operator that is known here")]
    Unknown(String),
    /// What stands in its brackets is not understood.
    #[error("what {operator} is about cannot be understood: {argument:?}")]
    Argument {
        /// Its name.
        operator: String,
        /// In brackets.
        argument: String,
    },
    /// It is too long.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
}

impl Format {
    /// Of a text. A line ends as it says, or else after it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn text(text: &str) -> Result<Self, InvalidFormat> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(Self(Kind::Text(pieces(text)?)))
    }

    /// Of an object. What is not known is null, or left out.
    ///
    /// # Errors
    /// What is wrong with one of its texts.
    pub fn labels(
        labels: &BTreeMap<String, String>,
        leaves_out: bool,
    ) -> Result<Self, InvalidFormat> {
        let labels = labels.iter();
        let labels = labels.map(|(name, text)| Ok((name.clone(), pieces(text)?)));
        Ok(Self(Kind::Labels {
            labels: labels.collect::<Result<_, _>>()?,
            leaves_out,
        }))
    }

    /// What has to be kept for it.
    pub fn keeps(&self) -> Kept {
        let mut kept = Kept::default();
        for piece in self.pieces() {
            if let Piece::Operator {
                what: What::Header(of, ..),
                ..
            } = piece
            {
                kept.add(*of);
            }
        }
        kept
    }

    /// What it says, with the end of its line.
    pub fn line(&self, facts: &dyn Facts) -> String {
        let mut line = match &self.0 {
            Kind::Text(pieces) => written(pieces, facts, escape),
            Kind::Labels { labels, leaves_out } => {
                let told = labels
                    .iter()
                    .map(|(name, pieces)| (name, label(pieces, facts)));
                let told = told.filter(|(_, value)| !leaves_out || !value.is_null());
                let told: Map<String, Json> =
                    told.map(|(name, value)| (name.clone(), value)).collect();
                Json::Object(told).to_string()
            }
        };
        line.push('\n');
        line
    }

    /// What it says, as a value of something else: `None` if nothing of it is known.
    pub fn value(&self, facts: &dyn Facts) -> Option<String> {
        let mut operators = self.pieces().filter_map(|piece| match piece {
            Piece::Operator { what, .. } => Some(what),
            Piece::Literal(_) => None,
        });
        let is_known = operators.any(|what| what.value(facts).is_some());
        let is_fixed = self
            .pieces()
            .all(|piece| matches!(piece, Piece::Literal(_)));
        let pieces: Vec<Piece> = self.pieces().cloned().collect();
        (is_known || is_fixed).then(|| written(&pieces, facts, String::push_str))
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let (text, labels) = match &self.0 {
            Kind::Text(pieces) => (pieces.as_slice(), [].as_slice()),
            Kind::Labels { labels, .. } => ([].as_slice(), labels.as_slice()),
        };
        text.iter()
            .chain(labels.iter().flat_map(|(_, pieces)| pieces))
    }
}

impl What {
    fn value<'a>(&self, facts: &'a dyn Facts) -> Option<Value<'a>> {
        match self {
            Self::Fact(fact) => facts.value(*fact),
            Self::GrpcStatus => match facts.value(Fact::GrpcStatus)? {
                Value::Number(status) => Some(Value::Text(grpc_status(status).into())),
                other => Some(other),
            },
            Self::Began(form) => match facts.value(Fact::StartTime)? {
                Value::Time(at) => Some(Value::Text(formatted(form, at).into())),
                other => Some(other),
            },
            Self::Header(of, name, or) => {
                let look = |name: &Name| match name {
                    Name::Header(name) => facts.header(*of, name).map(Value::Text),
                    Name::Fact(fact) => facts.value(*fact),
                };
                look(name).or_else(|| or.as_ref().and_then(look))
            }
            Self::Unknown => None,
        }
    }
}

/// As one text; `put` adds a value to it.
fn written(pieces: &[Piece], facts: &dyn Facts, put: fn(&mut String, &str)) -> String {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Literal(text) => line.push_str(text),
            Piece::Operator { what, longest } => match what.value(facts) {
                Some(value) => put(&mut line, cut(&value.to_text(), *longest)),
                None => line.push('-'),
            },
        }
    }
    line
}

/// As a value of its own, if it is nothing else; otherwise a text.
fn label(pieces: &[Piece], facts: &dyn Facts) -> Json {
    let [Piece::Operator { what, longest }] = pieces else {
        return written(pieces, facts, String::push_str).into();
    };
    match what.value(facts) {
        Some(Value::Number(number)) => number.into(),
        Some(value) => cut(&value.to_text(), *longest).into(),
        None => Json::Null,
    }
}

fn cut(text: &str, longest: Option<usize>) -> &str {
    let Some(longest) = longest else { return text };
    text.char_indices()
        .nth(longest)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}

fn escape(line: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                line.push('\\');
                line.push(letter);
            }
            letter if letter.is_control() => {
                let _ = write!(line, "\\x{:02x}", u32::from(letter));
            }
            letter => line.push(letter),
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, InvalidFormat> {
    if text.len() > LONGEST {
        return Err(InvalidFormat::TooLong);
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut literal = String::new();
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (piece, after) = operator(after)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// `NAME`, `NAME(ARGUMENT)`, `NAME:LENGTH`, or all of it; and what follows the sign that ends it.
fn operator(text: &str) -> Result<(Piece, &str), InvalidFormat> {
    let unended = || InvalidFormat::Unended(cut(text, Some(32)).to_owned());
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let end = text.find(|letter| !is_name(letter)).ok_or_else(unended)?;
    let (name, rest) = text.split_at(end);
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(rest) => {
            let (argument, rest) = rest.split_once(')').ok_or_else(unended)?;
            (Some(argument), rest)
        }
        None => (None, rest),
    };
    let (options, rest) = rest.split_once('%').ok_or_else(unended)?;
    let longest = match options.strip_prefix(':') {
        Some(length) => Some(length.parse().map_err(|_| unended())?),
        None if options.is_empty() => None,
        None => return Err(unended()),
    };
    let variable = match (name, argument) {
        ("ENVIRONMENT", Some(variable)) => Some(variable),
        ("HOSTNAME", None) => Some("HOSTNAME"),
        _ => None,
    };
    if let Some(variable) = variable {
        // It is the same for as long as the process lives.
        let value = std::env::var(variable).unwrap_or_else(|_| "-".to_owned());
        return Ok((Piece::Literal(cut(&value, longest).to_owned()), rest));
    }
    let what = what(name, argument)?;
    Ok((Piece::Operator { what, longest }, rest))
}

fn what(name: &str, argument: Option<&str>) -> Result<What, InvalidFormat> {
    let refused = || InvalidFormat::Argument {
        operator: name.to_owned(),
        argument: argument.unwrap_or_default().to_owned(),
    };
    let of = match name {
        "REQ" => Some(Headers::Request),
        "RESP" => Some(Headers::Response),
        "TRAILER" => Some(Headers::Trailers),
        _ => None,
    };
    if let Some(of) = of {
        return header(of, argument.unwrap_or_default()).ok_or_else(refused);
    }
    if UNKNOWN.contains(&name) {
        return Ok(What::Unknown);
    }
    match (name, argument) {
        ("GRPC_STATUS", None | Some("CAMEL_STRING")) => return Ok(What::GrpcStatus),
        ("GRPC_STATUS", Some("NUMBER")) => return Ok(What::Fact(Fact::GrpcStatus)),
        ("GRPC_STATUS", Some(_)) => return Err(refused()),
        ("START_TIME", Some(form)) if !form.is_empty() => return Ok(What::Began(form.to_owned())),
        _ => {}
    }
    let mut known = NAMES.iter().filter(|(_, names, _)| names.contains(&name));
    let (fact, _, _) = known
        .next()
        .ok_or_else(|| InvalidFormat::Unknown(name.to_owned()))?;
    match argument {
        None | Some("") => Ok(What::Fact(*fact)),
        Some(_) => Err(refused()),
    }
}

/// `NAME`, or `NAME?OTHER` for another if there is none.
fn header(of: Headers, argument: &str) -> Option<What> {
    let (name, or) = match argument.split_once('?') {
        Some((name, or)) => (name, Some(or)),
        None => (argument, None),
    };
    let parse = |name: &str| {
        let name = name.to_ascii_lowercase();
        match (of, name.as_str()) {
            (Headers::Request, ":method") => Some(Name::Fact(Fact::Method)),
            (Headers::Request, ":path") => Some(Name::Fact(Fact::Path)),
            (Headers::Request, ":authority") => Some(Name::Fact(Fact::Host)),
            (Headers::Request, ":scheme") => Some(Name::Fact(Fact::Scheme)),
            (Headers::Request, "x-request-id") => Some(Name::Fact(Fact::RequestId)),
            (Headers::Request, "user-agent") => Some(Name::Fact(Fact::UserAgent)),
            (Headers::Response, ":status") => Some(Name::Fact(Fact::ResponseCode)),
            (_, other) if other.is_empty() || other.starts_with(':') => None,
            (_, other) => Some(Name::Header(other.to_owned())),
        }
    };
    let or = match or {
        Some(or) => Some(parse(or)?),
        None => None,
    };
    match (parse(name)?, or) {
        // Kept anyway.
        (Name::Fact(fact), None) => Some(What::Fact(fact)),
        (name, or) => Some(What::Header(of, name, or)),
    }
}

/// What there is elsewhere, and is never known here.
const UNKNOWN: [&str; 14] = [
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "METADATA",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "STREAM_ID",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_METADATA",
    "UPSTREAM_PROTOCOL",
];
const LONGEST: usize = 8192;

#[cfg(test)]
mod tests;
