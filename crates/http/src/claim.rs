//! Claims of tokens where headers are asked for: a name that no header has.

use tulle_model::token::TokenField;

/// The claim that a header match means: `@request.auth.claims.a.b`, or `@request.auth.claims[a][b]`, whose names may have dots. `None` if it
/// means a header.
///
/// # Errors
/// It means a claim, and names none.
pub fn claim(name: &str) -> Option<Result<TokenField, NoClaim>> {
    let path = match name.strip_prefix(CLAIMS) {
        Some(path) => path,
        None if name.starts_with('@') => return Some(Err(NoClaim)),
        None => return None,
    };
    let inside = path
        .strip_prefix('[')
        .and_then(|path| path.strip_suffix(']'));
    let names: Vec<&str> = match (path.strip_prefix('.'), inside) {
        (Some(path), _) => path.split('.').collect(),
        (None, Some(path)) => path.split("][").collect(),
        (None, None) => return Some(Err(NoClaim)),
    };
    let is_name = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    Some(match names.iter().all(is_name) {
        true => Ok(TokenField::Claim(
            names.into_iter().map(str::to_owned).collect(),
        )),
        false => Err(NoClaim),
    })
}

/// What names no claim of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("names no claim: {CLAIMS}.a.b or {CLAIMS}[a][b]")]
pub struct NoClaim;

const CLAIMS: &str = "@request.auth.claims";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_in_two_ways() {
        for (name, expected) in [
            (".a", &["a"][..]),
            (".a.B", &["a", "B"]),
            ("[a]", &["a"]),
            ("[a.b/c][d]", &["a.b/c", "d"]),
        ] {
            let path = expected.iter().map(|name| (*name).to_owned()).collect();
            let found = claim(&format!("{CLAIMS}{name}"));
            assert_eq!(found, Some(Ok(TokenField::Claim(path))), "{name}");
        }
        for name in ["", ".", ".a.", "[]", "[a", "a", ".a[b]", "[a]b]", "[a].b"] {
            assert_eq!(
                claim(&format!("{CLAIMS}{name}")),
                Some(Err(NoClaim)),
                "{name}"
            );
        }
        assert_eq!(claim("@other"), Some(Err(NoClaim)));
        assert_eq!(claim("x-claims"), None);
    }
}
