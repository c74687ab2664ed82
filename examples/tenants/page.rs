//! The pages at `/`: a form to log in, and the calendar for those who have.

use axum::{
    Extension, Router,
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::json;

use crate::{
    login::{Login, token_in},
    widget::{self, CSS, JAVASCRIPT},
};

/// The pages with their files, and the widget's.
pub(crate) async fn routes() -> Router {
    let calendar = include_str!("page/calendar.html").replace("WIDGET_ADDRESS", &widget::address("scheduler").await);
    Router::new()
        .route(
            "/",
            get(async move |login: Option<Extension<Login>>, headers: HeaderMap| page(&calendar, login, &headers)),
        )
        .route("/login.js", get(async || ([(CONTENT_TYPE, JAVASCRIPT)], include_str!("page/login.js"))))
        .route("/calendar.js", get(async || ([(CONTENT_TYPE, JAVASCRIPT)], include_str!("page/calendar.js"))))
        .route("/app.css", get(async || ([(CONTENT_TYPE, CSS)], include_str!("../scheduler/page/app.css"))))
        .route("/tenants.css", get(async || ([(CONTENT_TYPE, CSS)], include_str!("page/tenants.css"))))
        .merge(widget::routes())
}

fn page(calendar: &str, login: Option<Extension<Login>>, headers: &HeaderMap) -> impl IntoResponse + use<> {
    let html = match login.zip(token_in(headers)) {
        None => include_str!("page/login.html").to_owned(),
        // The page opens its live connection by the token; from there on the client uses a sealed key.
        Some((Extension(Login { user, .. }), token)) => {
            let who = json!({ "name": user.name, "tenant": user.tenant, "token": token }).to_string();
            calendar.replace("WHO_AS_JSON", &who.replace('<', "\\u003c"))
        }
    };
    ([(CACHE_CONTROL, "no-store")], Html(html))
}
