//! What is known about one entity, and the remedy if its requests are missing.

use std::sync::{Mutex, atomic::AtomicBool};

use http::Method;

use super::likeness::Likeness;
use crate::entity::Entity;

/// Names listed in a line.
pub(super) const MAX_LISTED: usize = 8;

/// One entity, and which of its requests have been seen.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) entity: Entity,
    /// A layer watches its routes.
    pub(super) is_watched: AtomicBool,
    /// It has no routes, a request has matched, or the missing requests were reported.
    pub(super) is_settled: AtomicBool,
    pub(super) search: Mutex<Search>,
}

/// The search for requests of an entity with subscribers.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) is_on: bool,
    /// The request that resembles its routes best.
    pub(super) like: Option<Like>,
}

/// A request that resembles a route.
#[derive(Debug)]
pub(super) struct Like {
    pub(super) method: Method,
    pub(super) likeness: Likeness,
    /// Its path, with the route's parameters in place of the values.
    pub(super) path: String,
}

impl Like {
    pub(super) fn rank(&self) -> u8 {
        match self.likeness {
            Likeness::Same => 5,
            Likeness::Case | Likeness::EmptySegment => 4,
            Likeness::Prefix(_) => 3,
            Likeness::Stripped(_) => 2,
            Likeness::Typo => 1,
        }
    }
}

impl Usage {
    /// The routes that write, and the lists.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&Method, &str)> {
        let lists = self.entity.lists.iter().map(|path| (&Method::GET, path.as_str()));
        self.entity.routes.iter().map(|route| (&route.method, route.path.as_str())).chain(lists)
    }

    pub(super) fn listed_routes(&self) -> String {
        let mut listed: Vec<String> =
            self.routes().take(MAX_LISTED).map(|(method, path)| format!("{method} {path}")).collect();
        listed.extend(self.routes().nth(MAX_LISTED).map(|_| "…".to_owned()));
        listed.join(", ")
    }

    pub(super) fn remedy(&self, like: Option<&Like>) -> String {
        let name = &self.entity.name;
        let Some(Like { method, likeness, path }) = like else {
            return format!(
                "either its routes are not behind the layer (a Router's layer wraps the routes that stand before it: call \
                 .layer(live.layer()) last), or they have other paths there: inside a nest without its prefix, for which \
                 there is live.watch({name:?})"
            );
        };
        let came = format!("{method} requests came to {path:?}");
        match likeness {
            Likeness::Same => format!(
                "{came}, which has no route of this method; updates and deletions name the id in their path, and the page's \
                 address for saving must have no query"
            ),
            Likeness::EmptySegment => {
                format!("{came} with an empty segment in it (\"//\"); mend the page's address for saving")
            }
            Likeness::Case => format!("{came}; capitals count"),
            Likeness::Typo => format!("{came}; name one path in entity, router and page"),
            Likeness::Prefix(prefix) => format!(
                "{came}; name the path as the layer sees it, with {prefix:?} before it, or watch inside that nest with \
                 live.watch({name:?})"
            ),
            Likeness::Stripped(head) => format!(
                "{came}; the layer stands inside a nest, which takes {head:?} away: leave that out of the entity's path, or \
                 put the layer outside"
            ),
        }
    }
}
