//! From a watched HTTP write to the changes that are published. Knows bodies, not tower, hyper or sockets.
//!
//! | step of a write | file |
//! |---|---|
//! | the request's method, path and query name an entity, and perhaps an object | `route`, `modes`, `watcher` |
//! | the handler receives a [`LiveWrite`](live_write::LiveWrite) | `live_write` |
//! | [`RequestBody`](crate::body::RequestBody) copies the request's body while the handler reads it | `capture` |
//! | writes of one object run one at a time | `keyed_lock`, `object_lock` |
//! | the response is read ahead, and the change is published before the client receives it | `exchange` |
//! | request and response become a change | `request_body`, `derive` |
//! | the row is read back, and the change is published | `publication` |
//! | the answer is put into the form that a widget understands, where the entity asks for that | `widget_answer` |
//! | a log line names what is missing for one | `hints` |
//! | the write goes on although its client is gone | `detached` |

pub(crate) mod capture;
mod derive;
pub(crate) mod detached;
pub(crate) mod exchange;
mod hints;
mod keyed_lock;
pub(crate) mod live_write;
mod modes;
pub(crate) mod object_lock;
mod publication;
mod request_body;
pub(crate) mod route;
pub(crate) mod watcher;
mod widget_answer;
