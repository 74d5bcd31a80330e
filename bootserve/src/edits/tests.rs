use std::sync::Arc;

use super::store::{
    ChangeError, Outcome, change, history, newest_revision, read, spend_once, stored_edits, trial,
};
use super::*;
use crate::config::Config;
use crate::database::Database;
use crate::inventory::listing::Explained;
use crate::inventory::tests::example;
use bootspec::diagnosis::explain;

/// The example's nodes, and a database.
struct Site {
    _dir: tempfile::TempDir,
    database: Database,
    files: Arc<Config>,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        Self { _dir: dir, database, files: Arc::new(example()) }
    }

    async fn change(&self, operation: Operation) -> Result<Outcome, ChangeError> {
        change(&self.database, &self.files, "admin", &operation).await
    }

    async fn set(&self, nodes: &str, assignments: &[&str]) -> Result<Outcome, ChangeError> {
        self.change(Operation::set(nodes, assignments, false).unwrap()).await
    }

    async fn add(&self, names: &str, assignments: &[&str]) -> Result<Outcome, ChangeError> {
        self.change(Operation::add(names, assignments).unwrap()).await
    }

    async fn unset(&self, nodes: &str, keys: &[&str]) -> Result<Outcome, ChangeError> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.change(Operation::Unset { nodes: nodes.to_owned(), keys }).await
    }

    async fn undo(&self, revision: Option<i64>) -> Result<Outcome, ChangeError> {
        self.change(Operation::Undo { revision }).await
    }

    /// What is in force.
    async fn config(&self) -> Config {
        self.files.with_edits(read(&self.database).await.unwrap()).unwrap()
    }

    async fn image(&self, node: &str) -> String {
        self.config().await.node_named(node).unwrap().image.to_string()
    }
}

fn lines(outcome: &Outcome) -> Vec<String> {
    outcome.changes.0.iter().map(ToString::to_string).collect()
}

fn error(result: Result<Outcome, ChangeError>) -> String {
    explain(&result.unwrap_err())
}

#[tokio::test]
async fn what_is_set_lies_over_the_files_until_it_is_taken_back() {
    let site = Site::new().await;
    let set = site.set("node-[000,020],head", &["image=rocky-9/v2", "metadata.rack=r7"]).await.unwrap();
    assert_eq!(set.revision, Some(1));
    let expected = [
        r#"node head image: "failsafe" -> "rocky-9/v2""#,
        r#"node head metadata: {} -> {"rack":"r7"}"#,
        r#"node node-000 image: "rocky-9-compute/20261122T061457Z" -> "rocky-9/v2""#,
        r#"node node-000 metadata: {"cluster":"alpha","rack":"1"} -> {"cluster":"alpha","rack":"r7"}"#,
        r#"node node-020 image: "rocky-9-compute" -> "rocky-9/v2""#,
        r#"node node-020 metadata: {"cluster":"alpha","rack":"1"} -> {"cluster":"alpha","rack":"r7"}"#,
    ];
    assert_eq!(lines(&set), expected);
    assert_eq!(site.image("head").await, "rocky-9/v2");
    site.unset("node-000,head", &["image"]).await.unwrap();
    assert_eq!(site.image("node-000").await, "rocky-9-compute/20261122T061457Z");
    assert_eq!(site.image("head").await, "failsafe");
    let edit = &read(&site.database).await.unwrap().0[&"node-000".parse().unwrap()];
    assert_eq!(edit.table, "metadata = { rack = 'r7' }".parse().unwrap());
    site.unset("node-000", &["metadata.rack"]).await.unwrap();
    site.unset("node-020,head", &[]).await.unwrap();
    assert_eq!(read(&site.database).await.unwrap(), Edits::default());
}

#[tokio::test]
async fn a_setting_is_explained_by_the_change_that_made_it() {
    let site = Site::new().await;
    site.set("node-000,head", &["image=new"]).await.unwrap();
    let config = site.config().await;
    let text = |node| Explained::of(&config, node).unwrap()[0].to_string();
    let node = text("node-000");
    assert!(
        node.contains("image = \"new\"\n      bootserve node, change 1: \"new\"\n      [[set]]"),
        "{node}"
    );
    let head = text("head");
    let expected = "image = \"new\"\n      bootserve node, change 1: \"new\"\n      \
                    [[node]] of the configuration: \"failsafe\", overruled";
    assert!(head.contains(expected), "{head}");
}

#[tokio::test]
async fn a_node_gets_another_mainboard() {
    let site = Site::new().await;
    site.set("head", &["mac=02:00:00:00:00:01"]).await.unwrap();
    site.set("node-001", &["uuid=00112233-4455-6677-8899-aabbccddee00", "address=10.1.9.9"]).await.unwrap();
    let config = site.config().await;
    assert_eq!(config.node("02:00:00:00:00:01".parse().unwrap()).unwrap().name.as_str(), "head");
    let node = config.node_named("node-001").unwrap();
    assert_eq!((node.key.name(), node.address.to_string()), ("uuid", "10.1.9.9".to_owned()));
    assert!(config.node("fc:ab:14:00:00:01".parse().unwrap()).is_none(), "the old one");
}

#[tokio::test]
async fn nodes_are_added_and_removed() {
    let site = Site::new().await;
    let more = ["address=10.1.5.[0-2]", "mac=fc:ab:14:00:02:[00-02]", "profile=gpu", "metadata.rack=9"];
    site.add("node-[400-402]", &more).await.unwrap();
    let config = site.config().await;
    let node = config.node_named("node-402").unwrap();
    assert_eq!(
        (node.address.to_string(), node.key.to_string()),
        ("10.1.5.2".into(), "fc:ab:14:00:02:02".into())
    );
    assert_eq!(node.kernel_args.len(), 2, "of the defaults and of the profile");
    site.set("node-402", &["image=new"]).await.unwrap();
    site.unset("node-402", &[]).await.unwrap();
    site.change(Operation::Remove { nodes: "node-[400-401]".into() }).await.unwrap();
    let config = site.config().await;
    assert!(config.node_named("node-401").is_none() && config.node_named("node-402").is_some());
}

#[tokio::test]
async fn what_cannot_be_done_is_named_and_changes_nothing() {
    let site = Site::new().await;
    let one = ["address=10.1.5.0", "mac=fc:ab:14:00:02:00"];
    let cases = [
        (site.set("node-400", &["image=x"]).await, "there is no node node-400"),
        (site.set("@nosuch", &["image=x"]).await, "nosuch"),
        (site.set("node-001", &["address=10.1.1.2"]).await, "have the same address 10.1.1.2"),
        (site.set("node-001", &["address=10.9.0.1"]).await, "10.9.0.1"),
        (site.unset("node-001", &["image"]).await, "nothing was set of node node-001"),
        (site.add("node-001", &one).await, "there is a node node-001 already, [[nodes]] names ="),
        (site.add("new", &["address=10.1.5.0"]).await, "node new is known by nothing"),
        (site.add("new", &["address=10.1.5.0", "mac=fc:ab:14:00:00:01"]).await, "have the same mac"),
        (site.add("new", &["address=10.1.5.[0-1]"]).await, "has 1 names and 2 addresses"),
        (site.add("new", &["address=10.1.5.0", "profile=no"]).await, "there is no [profile.no]"),
        (
            site.change(Operation::Remove { nodes: "node-001".into() }).await,
            "cannot be removed here: it stands in [[nodes]] names",
        ),
        (site.change(Operation::Remove { nodes: "head".into() }).await, "[[node]] of the configuration"),
        (site.undo(None).await, "there is no change"),
        (site.undo(Some(7)).await, "there is no change 7"),
    ];
    for (result, expected) in cases {
        let error = error(result);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(newest_revision(&site.database).await.unwrap(), 0);
    site.set("node-001", &["image=x"]).await.unwrap();
    let not_set = error(site.unset("node-001", &["mode"]).await);
    assert!(not_set.contains("mode was not set of node node-001\nhint: "), "{not_set}");
}

#[tokio::test]
async fn a_change_is_undone_unless_a_later_one_stands_in_its_way() {
    let site = Site::new().await;
    site.set("node-[000-001]", &["image=a"]).await.unwrap();
    site.set("node-001", &["image=b"]).await.unwrap();
    let error = error(site.undo(Some(1)).await);
    assert!(error.starts_with("node node-001 was changed again after change 1\nhint: "), "{error}");
    site.undo(None).await.unwrap();
    assert_eq!(site.image("node-001").await, "a");
    site.undo(Some(1)).await.unwrap();
    assert_eq!(read(&site.database).await.unwrap(), Edits::default());
    site.undo(None).await.unwrap();
    assert_eq!(site.image("node-000").await, "a", "undone is undone");
    let history = history(&site.database, 3).await.unwrap();
    let seen: Vec<_> = history.iter().map(|change| (change.revision, change.operation.as_str())).collect();
    assert_eq!(seen, [(5, "undo"), (4, "undo 1"), (3, "undo")]);
    assert_eq!((history[1].author.as_str(), history[1].nodes.len()), ("admin", 2));
}

#[tokio::test]
async fn what_changes_nothing_is_no_change_and_neither_is_a_trial() {
    let site = Site::new().await;
    let operation = Operation::set("node-001", &["image=a"], false).unwrap();
    let trial = trial(&site.database, &site.files, &operation).await.unwrap();
    assert_eq!((trial.revision, trial.changes.0.len()), (None, 1));
    assert_eq!(read(&site.database).await.unwrap(), Edits::default());
    site.set("node-001", &["image=a"]).await.unwrap();
    let again = site.set("node-001", &["image=a"]).await.unwrap();
    assert_eq!((again.revision, again.changes.is_empty()), (None, true));
}

#[tokio::test]
async fn what_is_set_for_one_boot_is_spent_by_it() {
    let site = Site::new().await;
    site.set("node-001", &["image=a"]).await.unwrap();
    let once = Operation::set("node-[001-002]", &["image=b", "kernel_args=debug"], true).unwrap();
    site.change(once).await.unwrap();
    let config = site.config().await;
    let text = Explained::of(&config, "node-001").unwrap()[0].to_string();
    let expected =
        "bootserve node, change 2, for one boot: \"b\"\n      bootserve node, change 2: \"a\", overruled";
    assert!(text.contains(expected), "{text}");
    let nodes = ["node-001", "node-002"].map(|name| name.parse().unwrap());
    assert!(nodes.iter().all(|name| config.edits().has_once(name)));
    for _ in 0..2 {
        for name in &nodes {
            spend_once(&site.database, name).await.unwrap();
        }
    }
    assert_eq!(
        [site.image("node-001").await, site.image("node-002").await],
        ["a", "rocky-9-compute/20261122T061457Z"]
    );
    let history = history(&site.database, 9).await.unwrap();
    assert_eq!(history.len(), 4, "it is spent once");
    assert_eq!((history[1].author.as_str(), history[1].operation.as_str()), ("bootserve", "boot node-001"));
    assert!(
        Operation::set("node-001", &["address=10.1.1.1"], true).is_err(),
        "a boot has no address of its own"
    );
}

#[tokio::test]
async fn where_a_password_is_sent_is_said_by_files_alone() {
    let site = Site::new().await;
    let one = ["address=10.1.5.0", "mac=fc:ab:14:00:02:00", "bmc_address=10.9.9.9"];
    for once in [false, true] {
        for assignment in ["bmc_address=10.9.9.9", "bmc.password_file=/etc/shadow"] {
            let error = Operation::set("node-001", &[assignment], once).unwrap_err().to_string();
            assert!(error.contains("can be set in files alone"), "{error}");
        }
    }
    assert!(Operation::add("new", &one).unwrap_err().to_string().contains("can be set in files alone"));
    // By the API, and by whoever can write the database.
    let settings: Table =
        "bmc_address = '10.9.9.9'\nbmc = { user = 'a', password_file = '/etc/shadow' }".parse().unwrap();
    let (nodes, once) = ("node-001".to_owned(), false);
    let error = error(site.change(Operation::Set { nodes, settings: settings.clone(), once }).await);
    assert!(error.contains("can be set in files alone"), "{error}");
    let edit = Edit { table: settings.clone(), once: settings, ..Edit::empty(1) };
    let edits = Edits([("node-001".parse().unwrap(), edit)].into());
    assert_eq!(site.files.with_edits(edits).unwrap().node_named("node-001").unwrap().bmc, None);
}

#[tokio::test]
async fn what_does_not_fit_the_files_any_more_can_be_taken_back() {
    let site = Site::new().await;
    for (name, last) in [("new-1", 1), ("new-2", 2)] {
        let address = format!("address=192.168.0.{}", 120 + last);
        site.add(name, &[&address, &format!("mac=02:00:00:00:00:0{last}"), "image=x"]).await.unwrap();
    }
    let node = |last: u8| {
        format!(
            "[[node]]\nname = 'n{last}'\nmac = '02:00:00:00:01:0{last}'\naddress = '192.168.0.{}'\nimage = 'a'\n",
            120 + last
        )
    };
    let text = include_str!("../../bootserve.example.toml");
    let files = Config::parse(&format!("{text}\n{}{}", node(1), node(2))).unwrap();
    let site = Site { files: Arc::new(files), ..site };
    assert!(site.files.with_edits(read(&site.database).await.unwrap()).is_err());
    let refused = error(site.set("node-001", &["image=z"]).await);
    assert!(refused.contains("have the same address"), "{refused}");
    site.change(Operation::Remove { nodes: "new-1".into() }).await.unwrap();
    site.undo(Some(2)).await.unwrap();
    assert_eq!(read(&site.database).await.unwrap(), Edits::default());
}

#[tokio::test]
async fn what_is_taken_back_of_a_set_need_not_be_set_of_all() {
    let site = Site::new().await;
    site.set("node-[000-001]", &["image=a"]).await.unwrap();
    site.add("new", &["address=10.1.5.0", "mac=fc:ab:14:00:02:00", "profile=gpu", "image=b"]).await.unwrap();
    let missing = error(site.unset("@*", &["image", "mode"]).await);
    assert!(missing.starts_with("mode was not set of node "), "{missing}");
    site.unset("@*", &[]).await.unwrap();
    let left = read(&site.database).await.unwrap();
    assert_eq!(left.0.len(), 1);
    assert_eq!(site.config().await.node_named("new").unwrap().kernel_args.len(), 2, "its profile stays");
}

#[tokio::test]
async fn changes_of_nodes_that_no_file_has_any_more_wait_for_them() {
    let site = Site::new().await;
    site.set("node-001", &["image=a"]).await.unwrap();
    let edits = read(&site.database).await.unwrap();
    let others = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
    let without = others.with_edits(edits.clone());
    // That file has a node of this name as well.
    assert_eq!(without.unwrap().node_named("node-001").unwrap().image.to_string(), "a");
    let fewer = include_str!("../../bootserve.example.toml").replace("node-001", "other");
    let without = Config::parse(&fewer).unwrap().with_edits(edits).unwrap();
    assert!(without.node_named("node-001").is_none());
    assert_eq!(without.inventory.gone(), ["node-001".parse().unwrap()]);
}

#[tokio::test]
async fn a_database_of_before_has_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(stored_edits(dir.path()).await.unwrap(), Edits::default());
    let database = Database::open(dir.path()).await.unwrap();
    sqlx::raw_sql("DROP TABLE node_edits").execute(&database.pool).await.unwrap();
    database.close().await;
    assert_eq!(stored_edits(dir.path()).await.unwrap(), Edits::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_writers_none_loses_what_another_has_written() {
    let site = Arc::new(Site::new().await);
    let writers: Vec<_> = (0..50)
        .map(|number| {
            let site = Arc::clone(&site);
            tokio::spawn(async move {
                let set = site.set("node-007", &[format!("metadata.writer{number}={number}").as_str()]).await;
                set.unwrap().revision.unwrap()
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=50).collect::<Vec<_>>());
    let metadata = site.config().await.node_named("node-007").unwrap().metadata.clone();
    for number in 0..50 {
        assert_eq!(metadata[&format!("writer{number}")].as_integer(), Some(number));
    }
}
