//! Every open socket: how many there may be, what each receives and sends, and how they close when the server shuts
//! down. Top down:
//!
//! | file | holds |
//! |---|---|
//! | `task` | the task of one socket: what it does at each wake, in order |
//! | `inbound` | what the page sends: subscriptions, calls, pongs and its close |
//! | `calls` | the calls of the page, until its socket goes |
//! | `outbound` | the slow path: what the fan-out could not write, reads of snapshots, and runs of visibility hooks |
//! | `closing` | how the socket ends |
//! | `reauth` | whether the socket may stay open, and whether it may be subscribed |
//! | `state` | what one socket keeps |
//! | `registry` | the table of open sockets, and what all of them share |
//! | `presence` | who is here, by the open sockets |
//! | `snapshots` | the runs of the snapshot hooks, each shared by many pages |
//! | `limits` | connection limits |
//! | `meter` | the rate limit of what one page sends |
//! | `large` | large messages, which are calls, kept from the WebSocket library |
//! | `outbox` | everything that waits to be written to one socket |
//! | `signals` | signals of other tasks to the task of one socket |
//! | `transport` | the stream under the socket: a plain TCP stream, or another one |

mod calls;
mod closing;
mod departures;
mod inbound;
mod large;
mod limits;
mod meter;
mod outbound;
mod outbox;
mod presence;
mod reauth;
mod registry;
mod signals;
mod snapshots;
mod state;
mod task;
mod transport;

pub(crate) use self::{
    calls::NO_METHODS,
    closing::reject_after,
    limits::LimitReached,
    reauth::AccessTerms,
    registry::{ConnectionLimits, Connections},
    state::AcceptedClient,
    task::serve,
};
