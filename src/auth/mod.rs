//! Authentication: a page's credentials, the application's answer, and the gate that bounds how often it is asked.

mod gate;
mod identity;
mod request;

pub use self::{
    gate::Authenticate,
    identity::{AuthError, Identity},
    request::{AuthRequest, Credentials},
};
pub(crate) use self::{
    gate::{AuthBackend, AuthGate, GateLimits, TokenList},
    request::{OwnedCredentials, header_token, own_query, query_token},
};
