//! How an unknown path or name resembles a configured one. Only the parts of a path that resemble a route, and segments
//! that look like words, are shown in the log.

/// Paths with more segments are not compared.
const MAX_SEGMENTS: usize = 16;
/// How many letters similar words may differ in.
const NEAR: usize = 2;

/// The difference between a path and a pattern that it resembles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// None: the path matches the pattern.
    Same,
    /// An empty segment: `//`.
    EmptySegment,
    /// Capitals.
    Case,
    /// More segments before it, as they may be shown.
    Prefix(String),
    /// The start of the pattern is missing.
    Stripped(String),
    /// A letter or two.
    Typo,
}

/// How `path` resembles `pattern`, and the path with the pattern's parameters in place of its values.
pub(super) fn likeness(pattern: &str, path: &str) -> Option<(Likeness, String)> {
    let patterns: Vec<&str> = segments(pattern).take(MAX_SEGMENTS).collect();
    let seen: Vec<&str> = segments(path).take(MAX_SEGMENTS + 1).collect();
    if seen.is_empty() || seen.len() > MAX_SEGMENTS {
        return None;
    }
    let with_params = || {
        let segment = |(pattern, seen): (&&str, &&str)| format!("/{}", if is_param(pattern) { pattern } else { seen });
        patterns.iter().zip(&seen).map(segment).collect::<String>()
    };
    let fits = |patterns: &[&str], seen: &[&str]| {
        let is_same = |(pattern, seen): (&&str, &&str)| is_param(pattern) || pattern == seen;
        patterns.iter().zip(seen).all(is_same) && patterns.iter().any(|pattern| !is_param(pattern))
    };
    if seen.len() == patterns.len() {
        if fits(&patterns, &seen) {
            let has_empty = path.contains("//");
            let likeness = if has_empty { Likeness::EmptySegment } else { Likeness::Same };
            return Some((likeness, if has_empty { path_of(pattern) } else { with_params() }));
        }
        let literals = || patterns.iter().zip(&seen).filter(|(pattern, _)| !is_param(pattern));
        if literals().all(|(pattern, seen)| pattern.eq_ignore_ascii_case(seen)) {
            return Some((Likeness::Case, with_params()));
        }
        let is_near = literals().all(|(pattern, seen)| pattern == seen || are_near(pattern, seen));
        return (is_near && literals().count() > 0).then(|| (Likeness::Typo, with_params()));
    }
    if let Some(extra) = seen.len().checked_sub(patterns.len()) {
        let is_behind = fits(&patterns, &seen[extra..]);
        return is_behind.then(|| {
            let prefix: String = seen[..extra].iter().map(|segment| format!("/{}", shown_segment(segment))).collect();
            let whole = format!("{prefix}{}", path_of(pattern));
            (Likeness::Prefix(prefix), whole)
        });
    }
    let (head, tail) = patterns.split_at(patterns.len() - seen.len());
    (fits(tail, &seen) && !head.iter().any(|segment| is_param(segment)))
        .then(|| (Likeness::Stripped(path_of(&head.join("/"))), path_of(&tail.join("/"))))
}

/// The known name that is most similar to this one.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = (&'n str, &'n str)>) -> Option<&'n str> {
    let rank = |(known, key): (&'n str, &'n str)| {
        let rank = if known.eq_ignore_ascii_case(name) || key.eq_ignore_ascii_case(name) {
            0
        } else if are_near(known, name) {
            distance(known, name)
        } else {
            return None;
        };
        Some((rank, known))
    };
    known.filter_map(rank).min_by_key(|(rank, _)| *rank).map(|(_, known)| known)
}

/// A path for a log line. Segments that do not look like words are hidden, since they may be ids or secrets.
pub(super) fn shown(path: &str) -> String {
    let mut shown: String = segments(path).take(6).map(|segment| format!("/{}", shown_segment(segment))).collect();
    if segments(path).nth(6).is_some() {
        shown.push_str("/…");
    }
    if shown.is_empty() { "/".to_owned() } else { shown }
}

fn shown_segment(segment: &str) -> &str {
    let is_word = segment.len() <= 24
        && segment.starts_with(|first: char| first.is_ascii_alphabetic())
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && segment.bytes().filter(u8::is_ascii_digit).count() <= 2;
    if is_word { segment } else { "…" }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn path_of(pattern: &str) -> String {
    segments(pattern).map(|segment| format!("/{segment}")).collect()
}

fn is_param(segment: &str) -> bool {
    segment.contains('{')
}

/// True for words that differ in a letter or two, and are longer than that.
fn are_near(one: &str, other: &str) -> bool {
    let shorter = one.len().min(other.len());
    shorter > NEAR && one.len().max(other.len()) <= 64 && distance(one, other) <= NEAR.min(shorter - 2)
}

/// How many letters to insert, remove, replace or swap to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, against) in other.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(letter != against);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && one[i - 1] == *against && *letter == other[j - 1] {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_like_patterns_in_several_ways() {
        let prefix = |text: &str| Likeness::Prefix(text.to_owned());
        let stripped = |text: &str| Likeness::Stripped(text.to_owned());
        for (pattern, path, expected) in [
            ("/events/{id}", "/events/7", Some((Likeness::Same, "/events/{id}"))),
            ("/events/{id}", "/events//7", Some((Likeness::EmptySegment, "/events/{id}"))),
            ("/events/{id}", "/Events/7", Some((Likeness::Case, "/Events/{id}"))),
            ("/events/{id}", "/event/7", Some((Likeness::Typo, "/event/{id}"))),
            ("/events/{id}", "/evnets/7", Some((Likeness::Typo, "/evnets/{id}"))),
            ("/events/{id}", "/calendar/events/7", Some((prefix("/calendar"), "/calendar/events/{id}"))),
            ("/events/{id}", "/8f3a9c12d4/events/7", Some((prefix("/…"), "/…/events/{id}"))),
            ("/calendar/events/{id}", "/events/7", Some((stripped("/calendar"), "/events/{id}"))),
            ("/events", "/app/v1/events", Some((prefix("/app/v1"), "/app/v1/events"))),
            ("/events/{id}", "/tasks/7", None),
            ("/events", "/", None),
            ("/events/{id}", "/7", None),
            ("/{id}", "/tasks/7", None),
            ("/a/{id}", "/b/7", None),
            ("/{tenant}/events", "/events", None),
        ] {
            let expected = expected.map(|(likeness, shown)| (likeness, shown.to_owned()));
            assert_eq!(likeness(pattern, path), expected, "{pattern} {path}");
        }
        assert_eq!(likeness("/events", &"/x".repeat(100_000)), None);
    }

    #[test]
    fn names_are_near_by_letters_case_and_payload_key() {
        let known = || [("events", "event"), ("tasks", "task"), ("calendars", "calendar")].into_iter();
        for (name, near) in [
            ("event", Some("events")),
            ("Events", Some("events")),
            ("evnets", Some("events")),
            ("task", Some("tasks")),
            ("calender", Some("calendars")),
            ("links", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known()), near, "{name}");
        }
    }

    #[test]
    fn no_id_and_no_secret_is_shown() {
        for (path, expected) in [
            ("/api/v2", "/api/v2"),
            ("/", "/"),
            ("/s/eyJhbGciOiJIUzI1NiJ9.e30/api", "/s/…/api"),
            ("/u/0f8fad5b-d9cb-469f-a165-70867728950e", "/u/…"),
            ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/…"),
            ("/a%0Ab/x", "/…/x"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }
}
