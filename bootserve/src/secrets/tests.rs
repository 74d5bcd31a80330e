use super::*;
use crate::events::{self, BootEvent};
use tempfile::TempDir;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 101);

struct Site {
    database: Database,
    _dir: TempDir,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { database: Database::open(dir.path()).await.unwrap(), _dir: dir }
    }

    /// Notes that a script began a boot of the machine.
    async fn begin(&self, mac: u8, boot: u64) -> BootId {
        let id = BootId::new(boot);
        let event = BootEvent::now(mac_of(mac), Phase::Script);
        let mut connection = self.database.pool.acquire().await.unwrap();
        events::write(&mut connection, vec![BootEvent { boot: Some(id), ..event }]).await.unwrap();
        id
    }

    async fn issue_at(&self, node: u8, boot: BootId, now: SystemTime) -> Result<SecretToken, Refusal> {
        let bearer = Bearer { node: &name(node), mac: mac_of(node), address: ADDRESS };
        issue(&self.database, bearer, boot, now).await.unwrap()
    }

    async fn issue(&self, node: u8, boot: BootId) -> Result<SecretToken, Refusal> {
        self.issue_at(node, boot, SystemTime::now()).await
    }

    async fn check(&self, node: u8, address: Ipv4Addr, token: &str) -> Result<Valid, Refusal> {
        check(&self.database, &name(node), address, token, SystemTime::now()).await.unwrap()
    }

    async fn count(&self) -> i64 {
        let query = sqlx::query_scalar("SELECT count(*) FROM secret_tokens");
        query.fetch_one(&self.database.pool).await.unwrap()
    }
}

fn name(node: u8) -> NodeName {
    format!("node-{node}").parse().unwrap()
}

fn mac_of(node: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, node])
}

#[tokio::test]
async fn a_token_is_good_once_for_its_node_its_address_and_its_boot() {
    let site = Site::new().await;
    let boot = site.begin(1, 1).await;
    assert_eq!(site.issue(1, BootId::new(9)).await, Err(Refusal::UnknownBoot));
    assert_eq!(site.issue(2, boot).await, Err(Refusal::UnknownBoot), "it is another machine's");
    let token = site.issue(1, boot).await.unwrap();
    assert_eq!(site.issue(1, boot).await, Err(Refusal::IssuedBefore));
    let shown = token.as_str();
    let elsewhere = Ipv4Addr::new(192, 168, 0, 7);
    assert_eq!(site.check(2, ADDRESS, shown).await, Err(Refusal::OtherNode(name(1))));
    assert_eq!(site.check(1, elsewhere, shown).await, Err(Refusal::OtherAddress(ADDRESS)));
    assert_eq!(site.check(1, ADDRESS, &"0".repeat(64)).await, Err(Refusal::UnknownToken));
    let now = SystemTime::now();
    let [first, second] =
        [site.check(1, ADDRESS, shown).await.unwrap(), site.check(1, ADDRESS, shown).await.unwrap()];
    assert_eq!(redeem(&site.database, first, now).await.unwrap(), Ok(()));
    assert_eq!(redeem(&site.database, second, now).await.unwrap(), Err(Refusal::Replay));
    assert_eq!(site.check(1, ADDRESS, shown).await, Err(Refusal::Replay));
}

#[tokio::test]
async fn the_newest_boot_makes_those_before_it_worthless() {
    let site = Site::new().await;
    let (old, new) = (site.begin(1, 1).await, site.begin(1, 2).await);
    let token = site.issue(1, old).await.unwrap();
    assert!(
        site.check(1, ADDRESS, token.as_str()).await.is_ok(),
        "whoever asks for a script takes no boot away"
    );
    let newer = site.issue(1, new).await.unwrap();
    assert_eq!(site.check(1, ADDRESS, token.as_str()).await, Err(Refusal::OlderBoot));
    assert_eq!(site.issue(1, old).await, Err(Refusal::OlderBoot));
    assert!(site.check(1, ADDRESS, newer.as_str()).await.is_ok());
}

#[tokio::test]
async fn what_comes_late_is_refused_and_so_is_what_comes_from_the_future() {
    let site = Site::new().await;
    let boot = site.begin(1, 1).await;
    let (now, second) = (SystemTime::now(), Duration::from_secs(1));
    for other in [now + LIMIT + second, now - 60 * second] {
        assert_eq!(site.issue_at(1, boot, other).await, Err(Refusal::Expired));
    }
    let token = site.issue_at(1, boot, now + LIMIT - second).await.unwrap();
    let check = async |now| check(&site.database, &name(1), ADDRESS, token.as_str(), now).await.unwrap();
    assert!(check(now + 2 * LIMIT - 2 * second).await.is_ok());
    assert_eq!(check(now + 2 * LIMIT).await, Err(Refusal::Expired));
    assert_eq!(check(now).await, Err(Refusal::Expired));
}

#[tokio::test]
async fn tokens_are_bounded_and_are_not_in_the_database_themselves() {
    let site = Site::new().await;
    let mut tokens = Vec::new();
    for boot in 1..=40 {
        let boot = site.begin(1, boot).await;
        tokens.push(site.issue(1, boot).await.unwrap());
    }
    assert_eq!(site.count().await, 16);
    let boot = site.begin(2, 100).await;
    site.issue(2, boot).await.unwrap();
    let mut connection = site.database.pool.acquire().await.unwrap();
    forget_old(&mut connection, SystemTime::now() + 2 * KEPT).await.unwrap();
    drop(connection);
    assert_eq!(site.count().await, 2, "the newest of each node");
    assert_eq!(site.issue(2, boot).await, Err(Refusal::IssuedBefore));
    site.database.close().await;
    let file = std::fs::read(site._dir.path().join("state.sqlite")).unwrap();
    for token in tokens {
        let needle = token.as_str().as_bytes();
        assert!(!file.windows(needle.len()).any(|window| window == needle));
    }
}

#[test]
fn every_refusal_has_a_word_that_is_counted() {
    let refusals = [
        overlay::Refusal::Address.into(),
        overlay::Refusal::NotBooting.into(),
        Refusal::UnknownNode,
        Refusal::NoSecrets,
        Refusal::UnknownBoot,
        Refusal::IssuedBefore,
        Refusal::NoTls,
        Refusal::NoToken,
        Refusal::UnknownToken,
        Refusal::OtherNode(name(1)),
        Refusal::OlderBoot,
        Refusal::Replay,
        Refusal::Expired,
    ];
    assert_eq!(refusals.map(|refusal| refusal.word()), Refusal::WORDS);
    assert_eq!(Refusal::OtherAddress(ADDRESS).word(), "address");
}
