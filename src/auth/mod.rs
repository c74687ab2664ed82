//! Authentication: a page's credentials, the application's answer, and the gate that bounds how often it is asked.

mod backend;
mod gate;
mod identity;
mod request;
mod tokens;

pub(crate) use self::{
    backend::AuthBackend,
    gate::{AuthGate, GateLimits},
    request::{OwnedCredentials, header_token, own_query, query_token},
    tokens::TokenList,
};
pub use self::{
    backend::Authenticate,
    identity::{AuthError, Identity},
    request::{AuthRequest, Credentials},
};
