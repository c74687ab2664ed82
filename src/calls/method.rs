//! The methods that pages call: their names, guards and handlers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    future::Future,
    sync::Arc,
};

use futures_util::{FutureExt, TryFutureExt};
use serde::{Serialize, de::DeserializeOwned};

use super::arguments::{self, ArgumentError};
use crate::{
    auth::Identity,
    error::ConfigError,
    hook::{BoxError, BoxFuture},
    object::quoted,
    session::Session,
};

/// Who makes a call; see [`LiveUpdatesBuilder::call`](crate::LiveUpdatesBuilder::call).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caller {
    /// The page's identity, as the authenticator has returned it.
    pub identity: Identity,
    /// The page's session. `None` for a call over HTTP, whose page has no socket.
    pub session: Option<Session>,
}

/// An error that the page is shown: its promise is rejected with this text.
///
/// The page of any other error of a method gets `the call failed`, and the error itself goes to the log: an error of a
/// database or of another service may hold what no user should read.
///
/// ```
/// use tower_live_updates::{CallError, Caller, Entity, LiveUpdates};
///
/// type BoxError = Box<dyn std::error::Error + Send + Sync>;
///
/// let live = LiveUpdates::builder("/api/v1")
///     .allow_anonymous()
///     .entity(Entity::scheduler("/events"))
///     .call("rooms.book", (), async |(), _: Caller, (room, seats): (String, u32)| {
///         if seats > 8 {
///             return Err(CallError::new(format!("{room} has 8 seats")).into());
///         }
///         let file = std::fs::read_to_string("/var/lib/rooms")?; // its error stays in the log
///         Ok::<_, BoxError>(file.len())
///     })
///     .build()?;
/// # Ok::<(), tower_live_updates::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallError(Cow<'static, str>);

impl CallError {
    /// An error with a text for the user. The client takes an empty error for success, so an empty text becomes `the call
    /// failed`.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self(if text.is_empty() { Cow::Borrowed(FAILED) } else { text })
    }

    pub(crate) fn into_text(self) -> Cow<'static, str> {
        self.0
    }
}

/// The text of an error that is not for the page.
pub(crate) const FAILED: &str = "the call failed";

/// Why a handler has returned nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error(transparent)]
    Arguments(ArgumentError),
    #[error("{0}")]
    Failed(BoxError),
    #[error("its result cannot be written as JSON: {0}")]
    Serialize(serde_json::Error),
}

/// Whether an identity may call a method.
type Guard = Arc<dyn Fn(Identity) -> BoxFuture<Result<bool, BoxError>> + Send + Sync>;

/// Runs a method with the arguments of a call, JSON text; returns JSON text.
type Handler = Arc<dyn Fn(Caller, &str) -> BoxFuture<Result<String, HandlerError>> + Send + Sync>;

/// A method that pages may call.
#[derive(Clone)]
pub(crate) struct Method {
    pub(crate) guard: Option<Guard>,
    pub(crate) handler: Handler,
}

impl Method {
    pub(crate) fn new<S, A, R, E, F, Fut>(state: S, handler: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        A: DeserializeOwned,
        R: Serialize,
        E: Into<BoxError>,
        F: Fn(S, Caller, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |caller, json| match arguments::read(json) {
            Ok(arguments) => handler(state.clone(), caller, arguments)
                .map(|returned| {
                    let returned = returned.map_err(|error| HandlerError::Failed(error.into()))?;
                    serde_json::to_string(&returned).map_err(HandlerError::Serialize)
                })
                .boxed(),
            Err(error) => std::future::ready(Err(HandlerError::Arguments(error))).boxed(),
        });
        Self { guard: None, handler }
    }

    pub(crate) fn guarded<S, E, G, Fut>(self, state: S, guard: G) -> Self
    where
        S: Clone + Send + Sync + 'static,
        E: Into<BoxError>,
        G: Fn(S, Identity) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        let guard: Guard = Arc::new(move |identity| guard(state.clone(), identity).err_into().boxed());
        Self { guard: Some(guard), ..self }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("guard", &self.guard.is_some()).finish_non_exhaustive()
    }
}

/// Every method, by its name.
#[derive(Debug)]
pub(crate) struct Methods {
    by_name: HashMap<Box<str>, Method>,
    /// What the handshake names: `{"service":{"method":1}}`.
    pub(crate) api: Box<str>,
}

impl Methods {
    pub(crate) fn new(named: Vec<(String, Method)>) -> Result<Self, ConfigError> {
        let mut by_name = HashMap::new();
        let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, method) in named {
            let (service, own) =
                parts(&name).map_err(|reason| ConfigError::MethodName { name: name.clone(), reason })?;
            services.entry(service.to_owned()).or_default().push(format!("{}:1", quoted(own)));
            if by_name.insert(name.clone().into_boxed_str(), method).is_some() {
                return Err(ConfigError::DuplicateMethod(name));
            }
        }
        let services: Vec<String> = services
            .into_iter()
            .map(|(service, methods)| format!("{}:{{{}}}", quoted(&service), methods.join(",")))
            .collect();
        Ok(Self { by_name, api: format!("{{{}}}", services.join(",")).into() })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Method> {
        self.by_name.get(name)
    }
}

/// Bytes of the longest service or method name.
const MAX_PART: usize = 64;

/// The service and the method of a name. The client makes an object of each service and a function of each method, so
/// that a page calls `api.tasks.count()`.
fn parts(name: &str) -> Result<(&str, &str), &'static str> {
    let (service, method) = name.split_once('.').ok_or("it has no dot between a service and a method")?;
    if method.contains('.') {
        return Err("it has more than one dot, and the client knows services and their methods only");
    }
    for part in [service, method] {
        let is_first = |letter: char| letter.is_ascii_alphabetic() || "_$".contains(letter);
        let is_identifier =
            part.starts_with(is_first) && part.chars().all(|letter| is_first(letter) || letter.is_ascii_digit());
        if !is_identifier || part.len() > MAX_PART {
            return Err("both parts must be JavaScript identifiers of 1 to 64 ASCII letters, digits, '_' and '$'");
        }
        if ["__proto__", "constructor", "prototype"].contains(&part) {
            return Err("every JavaScript object has a property of that name already");
        }
    }
    if method == "then" {
        return Err("JavaScript takes an object with the method `then` for a promise");
    }
    Ok((service, method))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn api(names: &[&str]) -> Result<String, String> {
        let method = || Method::new((), async |(), _: Caller, ()| Ok::<_, Infallible>(()));
        let named = names.iter().map(|name| ((*name).to_owned(), method())).collect();
        Methods::new(named).map(|methods| methods.api.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_handshake_names_services_and_their_methods() {
        assert_eq!(api(&[]).unwrap(), "{}");
        assert_eq!(api(&["svc.Add", "a.b", "svc.Fail"]).unwrap(), r#"{"a":{"b":1},"svc":{"Add":1,"Fail":1}}"#);
    }

    #[test]
    fn names_that_the_client_cannot_use_are_refused() {
        for (name, reason) in [
            ("", "no dot"),
            ("count", "no dot"),
            ("a.b.c", "more than one dot"),
            ("a..b", "more than one dot"),
            (".b", "identifiers"),
            ("a.", "identifiers"),
            ("a.b c", "identifiers"),
            ("a.7", "identifiers"),
            ("ä.b", "identifiers"),
            ("a.\"", "identifiers"),
            ("__proto__.b", "every JavaScript object"),
            ("a.__proto__", "every JavaScript object"),
            ("a.constructor", "every JavaScript object"),
            ("a.then", "promise"),
        ] {
            let error = api(&[name]).unwrap_err();
            assert!(error.contains(reason) && error.contains(&format!("{name:?}")), "{name}: {error}");
        }
        let long = format!("{}.b", "a".repeat(65));
        assert!(api(&[&long]).is_err() && api(&[&long[1..]]).is_ok());
        assert!(api(&["a.b", "a.b"]).unwrap_err().contains("\"a.b\""));
        assert!(api(&["then.b", "_a.$b2", "constructors.c"]).is_ok());
    }

    #[test]
    fn an_error_for_a_page_is_never_empty() {
        assert_eq!(CallError::new("").to_string(), FAILED);
        assert_eq!(CallError::new("full").into_text(), "full");
    }
}
