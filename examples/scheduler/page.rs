//! The page.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::Html,
    routing::get,
};

use serde_json::json;

use crate::widget::{self, CSS, JAVASCRIPT};

/// The page at `/` with its files, and the widgets'. Each page that is opened gets the next one of the tokens.
pub(crate) async fn routes(tokens: Vec<String>) -> Router {
    // A real application gives each user a token of their own, after they have signed in. In this demo,
    // every browser that can open the page may connect.
    let opened = AtomicUsize::new(0);
    let html = include_str!("page/index.html")
        .replace("SCHEDULER_ADDRESS", &widget::address("scheduler").await)
        .replace("GANTT_ADDRESS", &widget::address("gantt").await);
    let page = Arc::new(move || {
        let token = &tokens[opened.fetch_add(1, Ordering::Relaxed) % tokens.len()];
        html.replace("TOKEN_AS_JSON", &json!(token).to_string().replace('<', "\\u003c"))
    });
    let script = |text: &'static str| get(async move || ([(CONTENT_TYPE, JAVASCRIPT)], text));
    let style = |text: &'static str| get(async move || ([(CONTENT_TYPE, CSS)], text));
    Router::new()
        .route("/", get(async move || ([(CACHE_CONTROL, "no-store")], Html(page()))))
        .route("/app.js", script(include_str!("page/app.js")))
        .route("/shell.js", script(include_str!("page/shell.js")))
        .route("/calendar.js", script(include_str!("page/calendar.js")))
        .route("/plan.js", script(include_str!("page/plan.js")))
        .route("/plan_changes.js", script(include_str!("page/plan_changes.js")))
        .route("/app.css", style(include_str!("page/app.css")))
        .route("/plan.css", style(include_str!("page/plan.css")))
        .merge(widget::routes())
}
