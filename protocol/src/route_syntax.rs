//! How a route is written. This file needs no other one: the attribute `#[service]` of `node-sdk`
//! includes it, so that routes are checked by the same rules when they are compiled.

/// Longest route in bytes.
pub(crate) const MAX_ROUTE_BYTES: usize = 512;
/// Longest method in letters; HTTP's registered methods have at most 17 (`UPDATEREDIRECTREF`).
const MAX_METHOD_BYTES: usize = 17;

/// A part of a path, between two slashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Matches itself only.
    Literal(&'a str),
    /// `{name}`: matches any one segment that is not empty.
    Parameter(&'a str),
}

/// The method and the path of a route.
///
/// # Errors
/// Which rule the text breaks, for the author of the service.
pub(crate) fn split_route(text: &str) -> Result<(&str, &str), &'static str> {
    let method_bytes = text.bytes().take_while(u8::is_ascii_uppercase).count();
    let (method, path) = text.split_at(method_bytes);
    if method_bytes == 0 || method_bytes > MAX_METHOD_BYTES {
        return Err("it does not begin with a method in capital letters");
    }
    if !path.starts_with('/') {
        return Err("no path follows the method");
    }
    if text.len() > MAX_ROUTE_BYTES {
        return Err("it is longer than 512 bytes");
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '\\')) {
        return Err("the path has a character that is not allowed in paths");
    }
    let mut names = Vec::new();
    for segment in segments(path) {
        match segment {
            Segment::Literal("." | "..") => return Err("the path has a dot segment"),
            Segment::Literal(literal) if literal.contains(['{', '}']) => {
                return Err("a parameter must be a whole segment");
            }
            Segment::Literal(_) => {}
            Segment::Parameter(name) if name.is_empty() || name.contains(['{', '}']) => {
                return Err("a parameter has no name");
            }
            Segment::Parameter(name) if names.contains(&name) => return Err("two parameters have the same name"),
            Segment::Parameter(name) => names.push(name),
        }
    }
    Ok((method, path))
}

/// The parts of a path in order.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = Segment<'_>> {
    path.split('/').skip(1).map(|segment| {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        name.map_or(Segment::Literal(segment), Segment::Parameter)
    })
}

/// Why a path matches itself only, although it looks like a pattern of another framework.
pub(crate) fn foreign_pattern(path: &str) -> Option<&'static str> {
    segments(path).find_map(|segment| match segment {
        Segment::Literal(literal) if literal.contains('*') => {
            Some("there are no wildcards, and a * matches only itself")
        }
        Segment::Literal(literal) if literal.starts_with(':') => Some("a parameter is written {name}, not :name"),
        Segment::Parameter(name) if name.contains(['*', ':']) => {
            Some("a parameter matches any one segment: there are no wildcards, and no expressions")
        }
        Segment::Literal(_) | Segment::Parameter(_) => None,
    })
}
