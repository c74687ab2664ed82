//! The page.

use axum::{
    Router,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::Html,
    routing::get,
};

use crate::widget::{self, CSS, JAVASCRIPT};

/// The page at `/` with its files, and the widgets'.
pub(crate) async fn routes(token: &str) -> serde_json::Result<Router> {
    // A real application gives each user a token of their own, after they have signed in. In this demo,
    // every browser that can open the page may connect.
    let token = serde_json::to_string(token)?.replace('<', "\\u003c");
    let html = include_str!("page/index.html")
        .replace("SCHEDULER_ADDRESS", &widget::address("scheduler").await)
        .replace("GANTT_ADDRESS", &widget::address("gantt").await)
        .replace("TOKEN_AS_JSON", &token);
    let script = |text: &'static str| get(async move || ([(CONTENT_TYPE, JAVASCRIPT)], text));
    let style = |text: &'static str| get(async move || ([(CONTENT_TYPE, CSS)], text));
    Ok(Router::new()
        .route("/", get(async move || ([(CACHE_CONTROL, "no-store")], Html(html))))
        .route("/app.js", script(include_str!("page/app.js")))
        .route("/shell.js", script(include_str!("page/shell.js")))
        .route("/calendar.js", script(include_str!("page/calendar.js")))
        .route("/plan.js", script(include_str!("page/plan.js")))
        .route("/plan_changes.js", script(include_str!("page/plan_changes.js")))
        .route("/app.css", style(include_str!("page/app.css")))
        .route("/plan.css", style(include_str!("page/plan.css")))
        .merge(widget::routes()))
}
