//! Every open socket: how many there may be, what each receives and sends, and how they close when the server shuts
//! down.
//!
//! Top down: [`task`] drives one socket, [`closing`], [`outbound`] and [`inbound`] are what it does, [`state`] is what
//! it keeps, [`registry`] is what all sockets share, and [`transport`] reads and writes one stream.

mod closing;
mod inbound;
mod limits;
mod meter;
mod outbound;
mod outbox;
mod reauth;
mod registry;
mod signals;
mod snapshots;
mod state;
mod task;
mod transport;

pub(crate) use self::{
    closing::reject_after,
    limits::{LimitReached, Rate},
    reauth::AccessTerms,
    registry::{ConnectionLimits, Connections},
    state::AcceptedClient,
    task::serve,
};
