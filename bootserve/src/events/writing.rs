//! Events are written by one task, together: a hall of nodes reports at once, and a disk syncs some hundred times a second.

use std::sync::Arc;

use bootspec::event::BootId;
use bootspec::{ImageRef, MacAddr};
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::{BootEvent, Shared};
use crate::database::{Database, DatabaseError, query_error};

/// How many requests to record something may wait; more of them wait to be taken.
pub(super) const MAX_ORDERS: usize = 1024;

/// Events to record, all of one machine and one boot.
#[derive(Debug)]
pub(super) struct Order {
    pub events: Vec<BootEvent>,
    pub done: oneshot::Sender<Result<(), Arc<DatabaseError>>>,
}

/// Writes what waits together, until nobody records any more.
pub(super) async fn write_orders(mut taken: mpsc::Receiver<Order>, shared: Shared) {
    let mut orders = Vec::new();
    while taken.recv_many(&mut orders, MAX_ORDERS).await > 0 {
        let (events, done): (Vec<_>, Vec<_>) =
            orders.drain(..).map(|order| (order.events, order.done)).unzip();
        let written = write_together(&shared.database, events).await.map_err(Arc::new);
        let answer = written.as_ref().map(|_| ()).map_err(Arc::clone);
        // First, so that whoever recorded something finds it in the status.
        shared.publish(&written.unwrap_or_default());
        // Who went away meanwhile does not want to know.
        done.into_iter().for_each(|done| drop(done.send(answer.clone())));
    }
}

/// Stores the events of several orders in one transaction and returns those that are news.
async fn write_together(
    database: &Database,
    orders: Vec<Vec<BootEvent>>,
) -> Result<Vec<BootEvent>, DatabaseError> {
    let transaction = database.pool.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = transaction.map_err(query_error("write to"))?;
    let mut all_news = Vec::new();
    for events in orders {
        let news = write(&mut transaction, events).await?;
        let reported = news.iter().find(|event| event.uptime_ms.is_some());
        if let Some(BootEvent { mac, boot: Some(boot), .. }) = reported {
            align_clock(&mut transaction, *mac, *boot).await?;
        }
        all_news.extend(news);
    }
    transaction.commit().await.map_err(query_error("write to"))?;
    Ok(all_news)
}

/// Stores `events` and returns those that were not known before.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    events: Vec<BootEvent>,
) -> Result<Vec<BootEvent>, DatabaseError> {
    let mut news = Vec::new();
    for event in events {
        if insert(connection, &event).await? {
            news.push(event);
        }
    }
    Ok(news)
}

/// Stores one event; whether it is new.
async fn insert(connection: &mut SqliteConnection, event: &BootEvent) -> Result<bool, DatabaseError> {
    let query = sqlx::query(
        "INSERT OR IGNORE INTO events (mac, time_unix_ms, phase, boot, image, uptime_ms, message) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    );
    let result = query
        .bind(event.mac.to_string())
        .bind(event.time_unix_ms)
        .bind(event.phase.to_string())
        .bind(event.boot.map(|boot| boot.to_string()))
        .bind(event.image.as_ref().map(ImageRef::to_string))
        .bind(event.uptime_ms)
        .bind(event.message.as_ref())
        .execute(connection)
        .await;
    Ok(result.map_err(query_error("store an event in"))?.rows_affected() == 1)
}

/// Puts all that a node reported of one boot on one clock. Each report relates the node's clock to ours, later than true by
/// the time that it travelled; the least late one serves for all, or events of two reports could stand in the wrong order.
async fn align_clock(
    connection: &mut SqliteConnection,
    mac: MacAddr,
    boot: BootId,
) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "UPDATE events SET time_unix_ms = uptime_ms + (SELECT min(time_unix_ms - uptime_ms) FROM events \
         WHERE mac = ?1 AND boot = ?2 AND uptime_ms IS NOT NULL) \
         WHERE mac = ?1 AND boot = ?2 AND uptime_ms IS NOT NULL",
    );
    let result = query.bind(mac.to_string()).bind(boot.to_string()).execute(connection).await;
    result.map_err(query_error("put reported times in order in"))?;
    Ok(())
}
