//! Checks configured origins, and brings them into the form that browsers send.

use http::uri::Authority;

/// The form in which browsers send an origin: in lower case, without the scheme's usual port and without a slash.
///
/// # Errors
/// If no browser sends this origin: the reason, and what to write instead.
pub(crate) fn normal_origin(written: &str) -> Result<String, String> {
    let refuse = |reason: &str| Err(reason.to_owned());
    let origin = written.to_ascii_lowercase();
    if origin.contains('*') {
        return refuse(
            "'*' stands for nothing here; allow many with allow_origin_if(|origin| origin.ends_with(\".app.example\")), or \
             all with allow_origin_if(|_| true)",
        );
    }
    if origin == "null" || origin.starts_with("file:") {
        return refuse(
            "pages of files and of sandboxed frames send \"null\", which any site can make its pages send; serve the page \
             over HTTP, or allow it with allow_origin_if(|origin| origin == \"null\")",
        );
    }
    if origin.contains(|letter: char| letter.is_whitespace() || letter == ',') {
        return refuse("one origin a call, without white space and commas");
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        let bare = origin.split('/').next().filter(|bare| !bare.is_empty()).unwrap_or("app.example");
        return Err(format!("it lacks its scheme: \"https://{bare}\""));
    };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        return refuse("its scheme is none: \"https://app.example\"");
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(at) = rest.find(['/', '?', '#', '\\']) {
        return Err(format!("it goes on behind the host, and an origin ends there: \"{scheme}://{}\"", &rest[..at]));
    }
    if matches!(scheme, "ws" | "wss") {
        let page = if scheme == "ws" { "http" } else { "https" };
        return Err(format!("a page has the scheme it was loaded by, not that of its socket: \"{page}://{rest}\""));
    }
    if !rest.is_ascii() {
        return refuse("browsers send the host in its ASCII form, which begins with \"xn--\"");
    }
    let is_authority = rest.parse::<Authority>().is_ok_and(|authority| !authority.host().is_empty());
    if !is_authority || rest.contains('@') || rest.ends_with(':') {
        return refuse("there is no host in it: \"https://app.example\"");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port = match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => return refuse("its port is none: 1 to 65535"),
        Some(Ok(port)) if Some(port) != usual_port(scheme) => format!(":{port}"),
        Some(Ok(_)) | None => String::new(),
    };
    Ok(format!("{scheme}://{host}{port}"))
}

/// What is wrong with an origin.
pub(crate) fn origin_fault(written: &str) -> Option<String> {
    normal_origin(written).err()
}

/// The default port of a scheme, which browsers leave out of an origin.
pub(crate) fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_normalised_to_the_form_that_browsers_send() {
        for (written, sent) in [
            ("https://app.example", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("http://app.example:80/", "http://app.example"),
            ("https://app.example:0443", "https://app.example"),
            ("https://app.example:80", "https://app.example:80"),
            ("HTTPS://App.Example/", "https://app.example"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://[::1]", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ] {
            assert_eq!(normal_origin(written).as_deref(), Ok(sent), "{written}");
        }
    }

    #[test]
    fn origins_that_no_browser_sends_are_refused_with_the_remedy() {
        for (written, remedy) in [
            ("", "\"https://app.example\""),
            ("*", "allow_origin_if"),
            ("https://*.app.example", "allow_origin_if"),
            ("https://app.example:*", "allow_origin_if"),
            ("*://app.example", "allow_origin_if"),
            ("null", "allow_origin_if(|origin| origin == \"null\")"),
            ("file:///home", "\"null\""),
            ("app.example", "\"https://app.example\""),
            ("localhost:5173", "\"https://localhost:5173\""),
            ("//app.example", "scheme"),
            ("://app.example", "scheme"),
            ("https://app.example/cal", "\"https://app.example\""),
            ("https://app.example//", "\"https://app.example\""),
            ("https://app.example?x", "\"https://app.example\""),
            ("wss://app.example", "\"https://app.example\""),
            ("ws://app.example:3000", "\"http://app.example:3000\""),
            ("https://bücher.example", "xn--"),
            ("https://", "no host"),
            ("https://me@app.example", "no host"),
            ("https://app.example:", "no host"),
            ("https://app.example:0", "port"),
            ("https://app.example:99999", "port"),
            ("https://app.example:https", "port"),
            (" https://app.example", "white space"),
            ("https://a.example,https://b.example", "one origin a call"),
        ] {
            let reason = normal_origin(written).expect_err(written);
            assert!(reason.contains(remedy), "{written}: {reason}");
        }
    }
}
