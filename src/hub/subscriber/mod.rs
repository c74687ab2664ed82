//! One consumer of the log: where it stands, what it follows, and which task sends to it.
//!
//! | file | holds |
//! |---|---|
//! | `state` | [`Subscriber`], its state under one mutex, and the [`Path`](state::Path) that names the sender |
//! | `subscription` | one entity: live, catching up, or in need of a snapshot |
//! | `subscribe` | how a subscriber joins, resumes, subscribes, and gets another identity |
//! | `fast` | what the fan-out sends |
//! | `catch_up` | what its own task sends |
//! | `ack` | pings, and what their pongs acknowledge |
//! | `sink` | where the frames go |

mod ack;
mod catch_up;
mod fast;
mod sink;
mod state;
mod subscribe;
mod subscription;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::state::spread;
pub(crate) use self::{
    catch_up::{Check, Progress},
    sink::{Accepted, FrameSink},
    state::Subscriber,
    subscribe::ResumeFrom,
};
