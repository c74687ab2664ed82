//! Logging in and out, and whose request it is.
//!
//! A login is proved by a JSON Web Token. Other programs send it as `Authorization: Bearer` or as `Remote-Token`, a
//! browser as a cookie too. Other sites cannot make use of the cookie: it is `SameSite=Strict`, and what changes
//! anything takes JSON or another method than a form has.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, COOKIE, SET_COOKIE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
    routing::post,
};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, get_current_timestamp};
use serde::{Deserialize, Serialize};
use tower_live_updates::{Identity, LiveUpdates};

use crate::{
    api::Refusal,
    store::{Error, Store},
    users::{self, User},
};

const COOKIE_NAME: &str = "login";

/// A user who has logged in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Login {
    pub(crate) user: &'static User,
    /// How often the user had ended all logins by then.
    generation: i64,
}

impl Login {
    /// The login that a live connection was made by.
    pub(crate) fn of(identity: &Identity) -> Result<Self, Error> {
        identity.data().copied().ok_or_else(|| "no user has logged in here".into())
    }

    /// What a sealed session remembers. It names the generation, so that a session ends with all others although the
    /// user may come back.
    pub(crate) fn principal(&self) -> String {
        format!("{}.{}", self.user.name, self.generation)
    }
}

#[derive(Deserialize, Serialize)]
struct Claims {
    sub: String,
    tenant: String,
    exp: u64,
    generation: i64,
}

/// Verifies logins.
#[derive(Clone)]
pub(crate) struct Logins {
    store: Store,
    signing: EncodingKey,
    verifying: DecodingKey,
    lifetime: Duration,
}

impl Logins {
    pub(crate) fn new(store: Store, secret: &str, lifetime: Duration) -> Self {
        Self {
            store,
            signing: EncodingKey::from_secret(secret.as_bytes()),
            verifying: DecodingKey::from_secret(secret.as_bytes()),
            lifetime,
        }
    }

    pub(crate) async fn by_token(&self, token: &str) -> Result<Option<Login>, Error> {
        // HS256 and an `exp` are required by default; a grace of a minute is not wanted.
        let rules = Validation { leeway: 0, ..Validation::default() };
        let Ok(token) = jsonwebtoken::decode::<Claims>(token, &self.verifying, &rules) else {
            return Ok(None);
        };
        let Claims { sub, tenant, generation, .. } = token.claims;
        let user = users::find(&sub).filter(|user| user.tenant == tenant);
        self.unless_ended(user, generation).await
    }

    pub(crate) async fn by_principal(&self, principal: &str) -> Result<Option<Login>, Error> {
        let Some((name, generation)) = principal.rsplit_once('.') else {
            return Ok(None);
        };
        let Ok(generation) = generation.parse() else {
            return Ok(None);
        };
        self.unless_ended(users::find(name), generation).await
    }

    async fn unless_ended(&self, user: Option<&'static User>, generation: i64) -> Result<Option<Login>, Error> {
        let Some(user) = user else {
            return Ok(None);
        };
        let now = self.store.generation(user).await?;
        Ok((now == generation).then_some(Login { user, generation }))
    }

    /// A token for this user, as of now.
    async fn token_for(&self, user: &'static User) -> Result<String, Error> {
        let claims = Claims {
            sub: user.name.to_owned(),
            tenant: user.tenant.to_owned(),
            exp: get_current_timestamp() + self.lifetime.as_secs(),
            generation: self.store.generation(user).await?,
        };
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &self.signing)?)
    }

    /// A cookie that holds a token. Where pages come over TLS it should be `Secure`, too.
    fn cookie(&self, token: &str) -> Result<HeaderValue, Error> {
        let age = if token.is_empty() { 0 } else { self.lifetime.as_secs() };
        Ok(format!("{COOKIE_NAME}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict").parse()?)
    }
}

/// Finds out whose request it is, for everything inside. It refuses no request: that is for handlers that need a
/// [`Login`].
pub(crate) async fn recognise(State(logins): State<Logins>, mut request: Request, next: Next) -> Response {
    if let Some(token) = token_in(request.headers()) {
        match logins.by_token(token).await {
            Ok(Some(login)) => {
                request.extensions_mut().insert(login);
            }
            Ok(None) => {}
            Err(error) => return Refusal::internal(&error).into_response(),
        }
    }
    next.run(request).await
}

/// The header counts, and the cookie where there is none: a window stays with its user when another one logs in
/// with the same browser.
pub(crate) fn token_in(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    text("remote-token").or_else(|| text(AUTHORIZATION.as_str())?.strip_prefix("Bearer ")).or_else(|| {
        let mut pairs = cookies.flat_map(|cookies| cookies.split("; ")).filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, token)| token)
    })
}

impl<S: Sync> FromRequestParts<S> for Login {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get().copied().ok_or(Refusal(StatusCode::UNAUTHORIZED, "log in first"))
    }
}

// ---- Routes --------------------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Door {
    logins: Logins,
    live: LiveUpdates,
}

pub(crate) fn routes(logins: Logins, live: LiveUpdates) -> Router {
    Router::new()
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .route("/logout-everywhere", post(log_out_everywhere))
        .with_state(Door { logins, live })
}

#[derive(Deserialize)]
struct Password {
    user: String,
    password: String,
}

#[derive(Serialize)]
struct Token {
    token: String,
}

async fn log_in(State(door): State<Door>, Json(given): Json<Password>) -> Result<impl IntoResponse, Refusal> {
    let user = users::with_password(&given.user, &given.password)
        .ok_or(Refusal(StatusCode::UNAUTHORIZED, "there is no such user with this password"))?;
    let token = door.logins.token_for(user).await?;
    Ok(([(SET_COOKIE, door.logins.cookie(&token)?)], Json(Token { token })))
}

/// Forgets who is logged in with this browser. Windows that are open stay with their users.
async fn log_out(State(door): State<Door>) -> Result<impl IntoResponse, Refusal> {
    Ok(([(SET_COOKIE, door.logins.cookie("")?)], StatusCode::NO_CONTENT))
}

/// Ends every login of this user: tokens, sessions, and the sockets that are open by them.
async fn log_out_everywhere(State(door): State<Door>, login: Login) -> Result<impl IntoResponse, Refusal> {
    door.logins.store.end_logins(login.user).await?;
    door.live.disconnect(|identity| Login::of(identity).is_ok_and(|theirs| theirs.user.name == login.user.name));
    log_out(State(door)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret for nothing but these tests";

    fn logins(store: &Store, lifetime: u64) -> Logins {
        Logins::new(store.clone(), SECRET, Duration::from_secs(lifetime))
    }

    fn ben() -> &'static User {
        users::find("ben").unwrap()
    }

    #[tokio::test]
    async fn tokens_and_sessions_end_when_all_logins_are_ended_and_new_ones_are_good() {
        let store = Store::open(None).unwrap();
        let logins = logins(&store, 60);
        let token = logins.token_for(ben()).await.unwrap();
        let session = logins.by_token(&token).await.unwrap().unwrap().principal();
        assert!(logins.by_principal(&session).await.unwrap().is_some());

        store.end_logins(ben()).await.unwrap();
        assert!(logins.by_token(&token).await.unwrap().is_none());
        assert!(logins.by_principal(&session).await.unwrap().is_none());

        let token = logins.token_for(ben()).await.unwrap();
        let again = logins.by_token(&token).await.unwrap().unwrap().principal();
        assert!(logins.by_principal(&again).await.unwrap().is_some());
        assert_ne!(again, session);
    }

    #[tokio::test]
    async fn tokens_expire_and_those_of_another_secret_are_none() {
        let store = Store::open(None).unwrap();
        let expired = Claims {
            sub: "ben".to_owned(),
            tenant: "north".to_owned(),
            exp: get_current_timestamp() - 1,
            generation: 0,
        };
        let logins = logins(&store, 60);
        let expired = jsonwebtoken::encode(&Header::default(), &expired, &logins.signing).unwrap();
        let other = Logins::new(store, "another secret, of the same length..", Duration::from_secs(60));
        for token in [expired, other.token_for(ben()).await.unwrap(), String::new()] {
            assert!(logins.by_token(&token).await.unwrap().is_none());
        }
        for principal in ["", "ben", "ben.", "ben.1", "eve.0"] {
            assert!(logins.by_principal(principal).await.unwrap().is_none(), "{principal}");
        }
    }

    #[test]
    fn headers_with_a_token_take_precedence_over_the_cookie() {
        let mut headers = HeaderMap::new();
        assert_eq!(token_in(&headers), None);
        headers.insert(COOKIE, HeaderValue::from_static("a=b; login=c; d=e"));
        assert_eq!(token_in(&headers), Some("c"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer f"));
        assert_eq!(token_in(&headers), Some("f"));
        headers.insert("remote-token", HeaderValue::from_static("g"));
        assert_eq!(token_in(&headers), Some("g"));
    }
}
