//! The errors of calls, in words for pages.

use std::borrow::Cow;

pub(crate) const NOT_ALLOWED: &str = "not allowed";
pub(crate) const TIMED_OUT: &str = "the call took too long";
pub(crate) const TOO_MANY: &str = "too many calls in a short time";
pub(crate) const TOO_MANY_WAIT: &str = "too many calls wait for others to end";
pub(crate) const WAITED_TOO_LONG: &str = "the call has waited too long for others to end";
pub(crate) const NO_MEMORY: &str = "the server has no room for more calls at the moment";
pub(crate) const TOO_SLOW: &str = "the call took too long to arrive";
pub(crate) const LOST: &str = "the connection was lost: the call may or may not have been carried out";
pub(crate) const SHUTS_DOWN: &str = "the server shuts down: the call may or may not have been carried out";

/// Of a call, or a message of calls, that is larger than this.
pub(crate) fn too_large(bytes: usize) -> Cow<'static, str> {
    format!("the call is larger than {bytes} bytes").into()
}

/// Of a method that there is none of.
pub(crate) fn unknown(name: &str) -> Cow<'static, str> {
    let shown: String = name.chars().take(64).collect();
    format!("there is no method {shown:?}").into()
}
