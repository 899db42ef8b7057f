//! Paths by their elements.

/// Whether a path is of a template: `{*}` is any one element, `{**}` one or more of them; the first `{**}` counts.
pub(super) fn fits(template: &[u8], path: &[u8]) -> bool {
    let wanted: Vec<&[u8]> = template.split(|byte| *byte == b'/').collect();
    let found: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let Some(rest) = wanted.iter().position(|element| *element == REST) else {
        return wanted.len() == found.len() && all(&wanted, &found);
    };
    let (before, after) = wanted.split_at(rest);
    let after = after.get(1..).unwrap_or_default();
    let Some(last) = found.len().checked_sub(after.len()) else {
        return false;
    };
    // Any number, and at least one, although that may be empty: `/a/{**}` is for `/a/` and not for `/a`.
    last > before.len()
        && all(before, found.get(..before.len()).unwrap_or_default())
        && all(after, found.get(last..).unwrap_or_default())
}

fn all(wanted: &[&[u8]], found: &[&[u8]]) -> bool {
    let mut pairs = wanted.iter().zip(found);
    pairs.all(|(wanted, found)| match *wanted {
        ONE => !found.is_empty(),
        wanted => wanted == *found,
    })
}

const ONE: &[u8] = b"{*}";
const REST: &[u8] = b"{**}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_compared_one_by_one() {
        for (template, path, expected) in [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a/b/d", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/ab", false),
            ("/a/{**}/z", "/a/z", false),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/b/c", false),
            ("/a/{*}/{**}", "/a/b", false),
            ("/a/{*}/{**}", "/a/b/", true),
            ("/a/{*}/{**}", "/a/", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
        ] {
            let fits = fits(template.as_bytes(), path.as_bytes());
            assert_eq!(fits, expected, "{template} {path}");
        }
    }
}
