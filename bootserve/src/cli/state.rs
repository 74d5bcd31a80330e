//! The database of a bootserve, which may run or not.

use bootserve::config::Config;
use bootserve::database::Database;
use bootserve::privileges::{find_user, prepare_state};
use nix::unistd::Uid;

use super::block_on;

/// Opens the database for `work`, and makes it where bootserve has never run; it is bootserve's user that goes on with it.
pub fn with_database<T, E>(
    config: &Config,
    work: impl AsyncFnOnce(&Database) -> Result<T, E>,
) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let state = &config.server.state;
    let user = config.server.user.as_deref().filter(|_| Uid::effective().is_root());
    let user = user.map(find_user).transpose()?;
    block_on(async {
        prepare_state(state, None)?;
        let database = Database::open(state).await?;
        prepare_state(state, user.as_ref())?;
        let done = work(&database).await;
        database.close().await;
        Ok(done?)
    })?
}
