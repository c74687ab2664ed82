//! Finds the entity and the id of a request by its method and path, and in some modes by its query.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use http::Method;
use percent_encoding::percent_decode_str;

use super::modes::{GanttMode, is_editing};
use crate::{
    change::ChangeKind,
    entity::{Entity, EntityIndex, EntityRoute, MoveFields},
    error::ConfigError,
    path_check::pattern_fault,
    scope::Scopes,
};

/// The routes of all entities.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Literal beginnings of all routes. They rule out nearly every request without a walk down a tree.
    prefixes: Vec<Box<str>>,
    methods: HashMap<Method, matchit::Router<Arc<Route>>>,
    /// POST routes that entities share, each of which the query names.
    modes: matchit::Router<Vec<Arc<Route>>>,
    lists: matchit::Router<List>,
}

/// A route that writes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) entity: EntityIndex,
    /// The entity's name.
    name: Box<str>,
    pub(crate) kind: ChangeKind,
    /// The pattern, for log lines.
    pub(crate) pattern: Box<str>,
    /// The query names the entity, and the body the action.
    pub(crate) is_mode: bool,
    /// An update that moves its object among its siblings.
    pub(crate) moves: Option<MoveFields>,
    /// Parameters whose values are scopes.
    scope_params: Vec<String>,
}

/// A list, by its path.
#[derive(Debug)]
struct List {
    /// The pattern, for log lines.
    pattern: Box<str>,
    entities: Vec<EntityIndex>,
}

/// A request that matches a route.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    pub(crate) route: Arc<Route>,
    /// The id in the path, decoded once; `None` where the route adds or has no id, or the id is no UTF-8.
    pub(crate) id: Option<Arc<str>>,
    /// The scopes in the path's parameters.
    pub(crate) scopes: Scopes,
}

/// Paths that entities share, each with what they have there.
type Shared<'e, T> = Vec<(&'e str, Vec<T>)>;

impl Routes {
    pub(crate) fn new(entities: &[Entity]) -> Result<Self, ConfigError> {
        let mut routes = Self::default();
        let (mut lists, mut modes) = (Shared::new(), Shared::new());
        for (entity, index) in entities.iter().zip(0_u16..) {
            let index = EntityIndex(index);
            for path in &entity.lists {
                share(&mut lists, path, index);
            }
            for route in &entity.routes {
                check(entity, route)?;
                let target = Arc::new(Route::new(entity, index, route));
                if route.is_mode {
                    share(&mut modes, &route.path, target);
                    continue;
                }
                let path = without_slash(&route.path);
                let tree = routes.methods.entry(route.method.clone()).or_default();
                tree.insert(path, target).map_err(|error| match error {
                    matchit::InsertError::Conflict { .. } => ConfigError::RouteConflict {
                        entity: entity.name.clone(),
                        method: route.method.clone(),
                        path: path.to_owned(),
                    },
                    other => refused(entity, path, &other.to_string()),
                })?;
                routes.prefixes.push(literal(path).into());
            }
        }
        for (path, sharing) in modes {
            let entity = &entities[usize::from(sharing[0].entity.0)];
            routes.modes.insert(path, sharing).map_err(|error| refused(entity, path, &error.to_string()))?;
            routes.prefixes.push(literal(path).into());
        }
        for (path, sharing) in lists {
            let entity = &entities[usize::from(sharing[0].0)];
            if let Some(reason) = pattern_fault(path) {
                return Err(refused(entity, path, &reason));
            }
            let list = List { pattern: path.into(), entities: sharing };
            routes.lists.insert(path, list).map_err(|error| refused(entity, path, &error.to_string()))?;
            routes.prefixes.push(literal(path).into());
        }
        routes.prefixes.sort();
        routes.prefixes.dedup();
        Ok(routes)
    }

    /// False where no route can have this path.
    pub(crate) fn may_match(&self, path: &str) -> bool {
        let begins = |path: &str| self.prefixes.iter().any(|prefix| path.starts_with(&**prefix));
        begins(path) || (path.contains('%') && begins(&normalized(path)))
    }

    /// The route of a request with this method and path. The query matters in the modes of the DataProcessor alone.
    pub(crate) fn find(&self, method: &Method, path: &str, query: Option<&str>) -> Found {
        let path = normalized(path);
        let mode = (method == Method::POST && is_editing(query)).then(|| GanttMode::of(query));
        if let (Some(GanttMode::Of(name)), Ok(at)) = (mode, self.modes.at(&path)) {
            if let Some(route) = at.value.iter().find(|route| *route.name == *name) {
                return Found::Write(Matched::new(route, &at.params));
            }
        }
        let Some(at) = self.methods.get(method).and_then(|tree| tree.at(&path).ok()) else { return Found::Nothing };
        match mode {
            Some(GanttMode::Of(name)) if *name != *at.value.name => Found::OtherMode(at.value.clone()),
            Some(GanttMode::Unclear) => Found::OtherMode(at.value.clone()),
            _ => Found::Write(Matched::new(at.value, &at.params)),
        }
    }

    /// The entities in the list that a GET of this path reads.
    pub(crate) fn find_list(&self, path: &str) -> &[EntityIndex] {
        let path = normalized(path);
        self.lists.at(&path).map_or(&[], |found| &*found.value.entities)
    }

    /// The path's pattern, and the entities of which one is written there by a GET, in the DataProcessor's mode GET: where
    /// lists are read, or objects added.
    pub(crate) fn find_get_mode(&self, path: &str) -> Option<(&str, &[EntityIndex])> {
        let path = normalized(path);
        if let Ok(list) = self.lists.at(&path) {
            return Some((&*list.value.pattern, &*list.value.entities));
        }
        let route = self.methods.get(&Method::POST)?.at(&path).ok()?.value;
        (route.kind == ChangeKind::Add).then(|| (&*route.pattern, std::slice::from_ref(&route.entity)))
    }
}

/// What [`Routes::find`] found.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    Write(Matched),
    /// A route, for whose entity the write is not: its query names another entity.
    OtherMode(Arc<Route>),
}

impl Route {
    fn new(entity: &Entity, index: EntityIndex, route: &EntityRoute) -> Self {
        let path = without_slash(&route.path);
        let query = if route.is_mode { format!("?editing=true&gantt_mode={}", entity.name) } else { String::new() };
        Self {
            entity: index,
            name: entity.name.as_str().into(),
            kind: route.kind,
            pattern: format!("{path}{query}").into(),
            is_mode: route.is_mode,
            moves: route.moves,
            scope_params: entity.scoping.iter().flat_map(|scoping| scoping.params.clone()).collect(),
        }
    }
}

impl Matched {
    fn new(route: &Arc<Route>, params: &matchit::Params<'_, '_>) -> Self {
        let decoded = |raw| percent_decode_str(raw).decode_utf8().ok();
        // On a route that adds, `{id}` is that of another object: the new one has no id yet.
        let named = params.get("id").filter(|_| route.kind != ChangeKind::Add);
        let id = named.and_then(decoded).map(Arc::from);
        let scopes = route.scope_params.iter().filter_map(|param| params.get(param).and_then(decoded));
        let scopes = scopes.filter(|scope| !scope.is_empty()).map(Cow::into_owned);
        Self { scopes: scopes.collect(), route: route.clone(), id }
    }
}

/// Adds what an entity has at a path that others may share.
fn share<'e, T>(shared: &mut Shared<'e, T>, path: &'e str, value: T) {
    let path = without_slash(path);
    match shared.iter_mut().find(|(known, _)| *known == path) {
        Some((_, sharing)) => sharing.push(value),
        None => shared.push((path, vec![value])),
    }
}

/// Refuses a route that no write can have.
fn check(entity: &Entity, route: &EntityRoute) -> Result<(), ConfigError> {
    let path = without_slash(&route.path);
    let refuse = |reason: &str| Err(refused(entity, path, reason));
    if let Some(reason) = pattern_fault(&route.path) {
        return Err(refused(entity, &route.path, &reason));
    }
    if [Method::GET, Method::HEAD, Method::OPTIONS, Method::CONNECT, Method::TRACE].contains(&route.method) {
        return refuse("GET, HEAD, OPTIONS, CONNECT and TRACE change nothing");
    }
    let method = route.method.as_str();
    if method.bytes().any(|letter| letter.is_ascii_lowercase()) {
        return refuse(&format!("methods are written in capitals: {}", method.to_ascii_uppercase()));
    }
    let names_id = path.contains("{id}") || path.contains("{*id}");
    if route.kind != ChangeKind::Add && !names_id {
        return Err(ConfigError::RouteWithoutId { entity: entity.name.clone(), path: path.to_owned() });
    }
    if path.matches("{id}").count() + path.matches("{*id}").count() > 1 {
        if let Some(bare) = path.strip_suffix("/{id}/{id}") {
            return refuse(&format!(
                "Entity::scheduler and Entity::collection add /{{id}} themselves; give them {bare:?}"
            ));
        }
        return refuse("only the object itself may be named {id}; give what is above it another name");
    }
    Ok(())
}

fn refused(entity: &Entity, path: &str, reason: &str) -> ConfigError {
    ConfigError::RoutePath { entity: entity.name.clone(), path: path.to_owned(), reason: reason.to_owned() }
}

/// A pattern up to its first parameter.
fn literal(pattern: &str) -> &str {
    pattern.find('{').map_or(pattern, |at| &pattern[..at])
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|bare| !bare.is_empty()).unwrap_or(path)
}

/// The path as routers see it: without a trailing slash, and with needless escapes undone (RFC 3986 6.2.2.2: letters,
/// digits and `-._~`; `%2F` stays).
fn normalized(path: &str) -> Cow<'_, str> {
    let path = without_slash(path);
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut pieces = path.split('%');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let plain = piece
            .get(..2)
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
        out.push(plain.map_or('%', char::from));
        out.push_str(if plain.is_some() { &piece[2..] } else { piece });
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes() -> Routes {
        Routes::new(&[
            Entity::scheduler("/events").route(Method::POST, "/events/{id}/cancel/", ChangeKind::Update).route(
                Method::POST,
                "/events/{id}/copy",
                ChangeKind::Add,
            ),
            Entity::new("tasks").payload_key("task").collection("/data/task"),
            Entity::new("cards").collection("/boards/{board}/cards/"),
        ])
        .unwrap()
    }

    fn find(method: &Method, path: &str) -> Option<(u16, ChangeKind, Option<String>)> {
        let Found::Write(found) = routes().find(method, path, None) else { return None };
        Some((found.route.entity.0, found.route.kind, found.id.map(|id| id.to_string())))
    }

    #[test]
    fn the_usual_routes_are_found() {
        let id = |text: &str| Some(text.to_owned());
        for (method, path, expected) in [
            (Method::POST, "/events", Some((0, ChangeKind::Add, None))),
            (Method::POST, "/events/", Some((0, ChangeKind::Add, None))),
            (Method::PUT, "/events/7", Some((0, ChangeKind::Update, id("7")))),
            (Method::PUT, "/events/7/", Some((0, ChangeKind::Update, id("7")))),
            (Method::PATCH, "/events/7", Some((0, ChangeKind::Update, id("7")))),
            (Method::DELETE, "/events/ID:17", Some((0, ChangeKind::Delete, id("ID:17")))),
            (Method::POST, "/events/7/cancel", Some((0, ChangeKind::Update, id("7")))),
            (Method::POST, "/events/7/copy", Some((0, ChangeKind::Add, None))),
            (Method::PUT, "/data/task/9", Some((1, ChangeKind::Update, id("9")))),
            (Method::POST, "/boards/3/cards", Some((2, ChangeKind::Add, None))),
            (Method::DELETE, "/boards/3/cards/8", Some((2, ChangeKind::Delete, id("8")))),
            (Method::GET, "/events", None),
            (Method::HEAD, "/events/7", None),
            (Method::OPTIONS, "/events/7", None),
            (Method::POST, "/events/7", None),
            (Method::PUT, "/events", None),
            (Method::PUT, "/events/a/b", None),
            (Method::POST, "/eventsx", None),
            (Method::POST, "/", None),
            (Method::POST, "", None),
            (Method::POST, "*", None),
        ] {
            assert_eq!(find(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn paths_that_no_route_can_have_are_ruled_out_by_prefix() {
        let routes = routes();
        for (path, known) in [("/plain", false), ("/events", true), ("/%65vents/1", true), ("/%66vents/1", false)] {
            assert_eq!(routes.may_match(path), known, "{path}");
        }
    }

    #[test]
    fn ids_are_decoded_once() {
        for (path, id) in [
            ("/events/a%2Fb", "a/b"),
            ("/events/%34%37", "47"),
            ("/events/a%252Fb", "a%2Fb"),
            ("/events/%C3%A4%20b", "ä b"),
            ("/%65vents/1", "1"),
            ("/events/100%25", "100%"),
            ("/events/1234567890123456789", "1234567890123456789"),
        ] {
            let (_, _, found) = find(&Method::PUT, path).expect(path);
            assert_eq!(found.as_deref(), Some(id), "{path}");
        }
        assert_eq!(find(&Method::PUT, "/events/%FF"), Some((0, ChangeKind::Update, None)), "an id that is no UTF-8");
    }

    #[test]
    fn bad_routes_are_refused_with_their_value() {
        let build = |entity: Entity| Routes::new(&[entity]).unwrap_err().to_string();
        let plain = || Entity::new("x");
        assert!(build(plain().collection("events")).contains("\"events\""));
        assert!(build(plain().route(Method::PUT, "/x", ChangeKind::Update)).contains("\"/x/{id}\""));
        assert!(build(plain().route(Method::GET, "/x", ChangeKind::Add)).contains("GET"));
        assert!(build(plain().route(Method::POST, "/x/{a", ChangeKind::Add)).contains("/x/{a"));
        assert!(build(plain().collection("/t/{id}/x")).contains("/t/{id}/x/{id}"));
        let twice = Routes::new(&[Entity::new("a").collection("/x"), Entity::new("b").collection("/x")]);
        assert!(matches!(twice, Err(ConfigError::RouteConflict { .. })));
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "(/events|/%65vents|/data/task)?[/%a-z0-9{}*?#äé]{0,40}") {
            let is_found = find(&Method::PUT, &path).is_some() || !routes().find_list(&path).is_empty();
            prop_assert!(routes().may_match(&path) || !is_found);
        }

        #[test]
        fn an_id_survives_full_escaping(id in "[^/\u{0}]{1,20}") {
            let escaped: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let (_, _, found) = find(&Method::PUT, &format!("/events/{escaped}")).unwrap();
            prop_assert_eq!(found.unwrap(), id);
        }
    }
}
