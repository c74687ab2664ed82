//! Remote calls: the methods that an application offers to its pages. Top down:
//!
//! | file | holds |
//! |---|---|
//! | `socket` | the calls of one socket, and what happens to them when it goes |
//! | `http` | the calls of one request |
//! | `runner` | runs one call: guard, arguments, handler, and how each may fail |
//! | `page` | the calls of one page: which wait, which run, and the results that are kept for its next socket |
//! | `method` | names, guards and handlers |
//! | `arguments` | the arguments of a call, as the types that a method takes |
//! | `limits` | bounds of what pages may call |
//! | `texts` | the errors of calls, in words for pages |
//! | `memory` | bounds the bytes that calls take |
//!
//! A page sends each call once and never again. Its promise is settled by the first result with the call's id, on whatever
//! socket that comes. So a call that has arrived runs to its end though its socket goes, its result is kept for the page's
//! next socket, and what that socket cannot account for is answered as lost.

mod arguments;
mod http;
mod limits;
mod memory;
mod method;
mod page;
mod runner;
mod socket;
mod texts;

pub use self::method::{CallError, Caller};
pub(crate) use self::{
    limits::CallLimits,
    memory::MemoryPermit,
    method::{Method, Methods},
    page::ResultSink,
    runner::Calls,
    socket::SocketCalls,
    texts::{NO_MEMORY, TOO_SLOW, too_large},
};
