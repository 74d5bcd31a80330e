//! `GET /v1/images`: the images of the store, and which nodes are to boot and run them. As open as the images themselves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::{App, internal_error, on_disk};
use crate::images::{Stored, images, read_stored};
use crate::store::StoreError;

/// Everyone may ask, and each look reads all manifests: there is one at a time, and what it found counts for so long.
const KEPT: Duration = Duration::from_secs(2);

/// What was found in the store, and when that was.
#[derive(Debug, Default)]
pub struct StoreLook(Mutex<Option<(Instant, Arc<Stored>)>>);

impl StoreLook {
    async fn at(&self, store: PathBuf) -> Result<Arc<Stored>, StoreError> {
        let mut kept = self.0.lock().await;
        if let Some((when, stored)) = &*kept
            && when.elapsed() < KEPT
        {
            return Ok(Arc::clone(stored));
        }
        let stored = Arc::new(on_disk(move || read_stored(&store)).await?);
        *kept = Some((Instant::now(), Arc::clone(&stored)));
        Ok(stored)
    }
}

/// `GET /v1/images`.
pub(super) async fn list(State(app): State<Arc<App>>) -> Response {
    match app.store_look.at(app.served.config.server.store.clone()).await {
        Ok(stored) => {
            let images = app.events.with_courses(|courses| images(&stored, &app.served.config, courses));
            Json(images).into_response()
        }
        Err(error) => internal_error(&error),
    }
}
