//! Checks configured paths. A path that no request can have is refused, and the error shows what to write instead.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Why no request can match this pattern; `None` where one can. The router checks its own rules afterwards.
pub(crate) fn pattern_fault(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("it is empty; a path begins with '/', as in \"/events\"".to_owned());
    }
    if let Some((_, rest)) = path.split_once("://") {
        let bare = rest.find('/').map_or("/events", |at| &rest[at..]);
        return Some(format!("it is a whole address, and requests are matched by their path alone: {bare:?}"));
    }
    if path.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        let bare: String = path.chars().filter(|letter| !letter.is_whitespace() && !letter.is_control()).collect();
        return Some(format!("it holds white space, which no request's path does: {bare:?}"));
    }
    if !path.starts_with('/') {
        return Some(format!("it must start with '/': \"/{path}\""));
    }
    path.split('/').find_map(parameter_fault).map(|reason| with_example(path, &reason)).or_else(|| text_fault(path))
}

/// Why the endpoint cannot be at this path.
pub(crate) fn endpoint_fault(path: &str) -> Option<String> {
    let has_parameter = || path.contains('{').then(|| "the endpoint has one address, without parameters".to_owned());
    pattern_fault(path).or_else(has_parameter)
}

/// True where the endpoint at `path` would take requests of this pattern: `path` equals the pattern, or names one of
/// its objects (`/events/{id}`). Beside any other parameter a literal path is allowed.
pub(crate) fn covers(pattern: &str, path: &str) -> bool {
    let segments = |path| str::split(str::trim_matches(path, '/'), '/');
    let is_same = |(pattern, segment): (&str, &str)| pattern == segment || (pattern == "{id}" && !segment.is_empty());
    segments(pattern).count() == segments(path).count() && segments(pattern).zip(segments(path)).all(is_same)
}

/// What is wrong with a segment that is a parameter in another router's syntax.
fn parameter_fault(segment: &str) -> Option<String> {
    let bare = segment.trim_matches(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let not = |written: &str| Some(format!("a parameter is written {{{}}}, not {written}", name_of(bare)));
    if segment.contains("{{") || segment.contains("}}") || segment.contains("${") {
        return not(segment);
    }
    if let Some((_, inner)) = segment.split_once('{') {
        let name = inner.split('}').next().unwrap_or_default();
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let plain = name.strip_prefix('*').unwrap_or(name);
        let first = plain.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next();
        return (!is_name(plain)).then(|| {
            format!(
                "a parameter has a name and nothing else, {{{}}}, not {{{name}}}",
                name_of(first.unwrap_or_default())
            )
        });
    }
    let is_colon = segment.starts_with(':') && segment.len() > 1;
    if is_colon || segment.contains(['<', '>']) || (segment.starts_with('[') && segment.ends_with(']')) {
        return not(segment);
    }
    (segment.starts_with('*') || segment.ends_with('*')).then(|| {
        format!(
            "a wildcard is written {{*{}}}, not {segment}, and an entity needs none",
            if bare.is_empty() { "rest" } else { bare }
        )
    })
}

fn name_of(bare: &str) -> &str {
    let is_name = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name { bare } else { "id" }
}

/// Adds what to write instead: the part before the first parameter, which is the collection's path.
fn with_example(path: &str, reason: &str) -> String {
    let is_plain = |segment: &&str| parameter_fault(segment).is_none() && !segment.contains('{');
    let bare: Vec<&str> = path.split('/').take_while(is_plain).collect();
    let bare = bare.join("/");
    let bare = if bare.is_empty() { "/events" } else { bare.trim_end_matches('/') };
    format!(
        "{reason}; Entity::scheduler and Entity::collection take the path before the id, {bare:?}, and add /{{id}} themselves"
    )
}

/// Letters that clients send escaped.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'"').add(b'`').add(b'\\').add(b'^');

/// What is wrong with a path's characters.
fn text_fault(path: &str) -> Option<String> {
    if let Some(at) = path.find(['?', '#']) {
        let what = if path[at..].starts_with('?') { "a query" } else { "a fragment" };
        return Some(format!("it holds {what}, and requests are matched by their path alone: {:?}", &path[..at]));
    }
    if path.contains("//") {
        let squeezed: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        return Some(format!("it has an empty segment (\"//\"): \"/{}\"", squeezed.join("/")));
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Some("clients resolve \".\" and \"..\" before they send a path: write it out".to_owned());
    }
    let escaped = utf8_percent_encode(path, ESCAPED).to_string();
    if escaped != path {
        return Some(format!("clients send some of its letters escaped: {escaped:?}"));
    }
    escapes_fault(path)
}

/// What is wrong with a path's escapes. Requests are matched with needless escapes undone, and the others as sent.
fn escapes_fault(path: &str) -> Option<String> {
    for (at, _) in path.match_indices('%') {
        let hex = path.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Some("'%' begins an escape of two hexadecimal digits; the sign itself is written %25".to_owned());
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            let plain = path.replace(&path[at..at + 3], &char::from(byte).to_string());
            return Some(format!("it escapes a letter that needs none, which is undone in requests: {plain:?}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_can_match_are_accepted() {
        for path in [
            "/",
            "/events",
            "/events/",
            "/events/{id}",
            "/{tenant}/events",
            "/{*rest}",
            "/events/{id}/copy",
            "/api/v1",
            "/data/task",
            "/events/{id}:cancel",
            "/a-b_c.d~e",
            "/%C3%A4",
            "/a%2Fb",
            "/a:b",
            "/v1.{format}",
            "/~me",
            "/Events",
            "/a(b)",
            "/a;b=c",
            "/a@b",
            "/a+b",
            "/a|b",
        ] {
            assert_eq!(pattern_fault(path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_never_match_are_refused_with_the_remedy() {
        for (path, remedy) in [
            ("", "begins with '/'"),
            ("events", "\"/events\""),
            (" /events", "\"/events\""),
            ("/events\n", "\"/events\""),
            ("/my events", "\"/myevents\""),
            ("http://localhost:3000/events", "\"/events\""),
            ("https://app.example", "\"/events\""),
            ("ws://app.example/api/v1", "\"/api/v1\""),
            ("/events?tenant=7", "\"/events\""),
            ("/events#top", "\"/events\""),
            ("//events", "\"/events\""),
            ("/api//events", "\"/api/events\""),
            ("/api/../events", "write it out"),
            ("./events", "\"/./events\""),
            ("/events/:id", "{id}, not :id"),
            ("/:tenant/events", "{tenant}, not :tenant"),
            ("/events/<id>", "{id}, not <id>"),
            ("/events/<int:id>", "{id}, not <int:id>"),
            ("/events/[id]", "{id}, not [id]"),
            ("/events/*", "{*rest}, not *"),
            ("/events/*path", "{*path}, not *path"),
            ("/events*", "\"/events\""),
            ("/events/**", "{*rest}, not **"),
            ("/events/${id}", "{id}, not ${id}"),
            ("/events/{{id}}", "{id}, not {{id}}"),
            ("/events/{id:int}", "{id}, not {id:int}"),
            ("/events/{id?}", "{id}, not {id?}"),
            ("/%65vents", "\"/events\""),
            ("/100%", "%25"),
            ("/%zz", "%25"),
            ("/événements", "\"/%C3%A9v%C3%A9nements\""),
            ("/a\\b", "\"/a%5Cb\""),
        ] {
            let reason = pattern_fault(path).unwrap_or_else(|| panic!("{path:?} is refused"));
            assert!(reason.contains(remedy), "{path:?}: {remedy} in {reason}");
            assert!(!reason.contains('\n') && !reason.ends_with('.'), "{reason:?}");
        }
    }

    #[test]
    fn an_example_names_the_collection() {
        let reason = pattern_fault("/calendar/events/:id").unwrap();
        assert!(reason.contains("\"/calendar/events\""), "{reason}");
    }

    #[test]
    fn the_endpoint_has_no_parameters() {
        for path in ["/", "/api/v1", "/api/v1/"] {
            assert_eq!(endpoint_fault(path), None, "{path}");
        }
        for path in ["/{tenant}/api", "ws://app.example/api/v1", "api/v1", "/api?x=1", "/api/*"] {
            assert!(endpoint_fault(path).is_some(), "{path}");
        }
    }

    #[test]
    fn the_endpoint_covers_its_own_path_and_ids() {
        for (pattern, path, is_covered) in [
            ("/events", "/events", true),
            ("/events", "/events/", true),
            ("/events/{id}", "/events/live", true),
            ("/events/{id}", "/events", false),
            ("/events", "/api/v1", false),
            ("/{tenant}/{id}", "/api/v1", false),
            ("/{tenant}/events", "/api/events", false),
            ("/", "/", true),
            ("/{id}", "/", false),
        ] {
            assert_eq!(covers(pattern, path), is_covered, "{pattern} {path}");
        }
    }
}
