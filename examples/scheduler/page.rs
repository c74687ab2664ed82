//! The page.

use axum::{
    Router,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::Html,
    routing::get,
};

use crate::widget::{self, CSS, JAVASCRIPT};

/// The page at `/` with its files, and the widget's.
pub(crate) async fn routes(token: &str) -> serde_json::Result<Router> {
    // A real application gives each user a token of their own, after they have signed in. In this demo,
    // every browser that can open the page may connect.
    let token = serde_json::to_string(token)?.replace('<', "\\u003c");
    let html = include_str!("page/index.html")
        .replace("WIDGET_ADDRESS", widget::address().await)
        .replace("TOKEN_AS_JSON", &token);
    Ok(Router::new()
        .route("/", get(async move || ([(CACHE_CONTROL, "no-store")], Html(html))))
        .route("/app.js", get(async || ([(CONTENT_TYPE, JAVASCRIPT)], include_str!("page/app.js"))))
        .route("/app.css", get(async || ([(CONTENT_TYPE, CSS)], include_str!("page/app.css"))))
        .merge(widget::routes()))
}
