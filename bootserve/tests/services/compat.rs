//! The routes of bootcfg and matchbox over data directories as sites have them, and pixiecore's API. `tests/data/README.md` says
//! where the answers are from.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::{CARRIED_MAC, Daemon, FETCHED_MAC, IMAGE, MISFIT_MAC, NODE_MAC, wait_until};

const UUID: &str = "4c4c4544-0051-5a10-8052-b4c04f4a4332";
const KERNEL: &str = "/images/coreos/835.9.0/coreos_production_pxe.vmlinuz";
/// `/boot.ipxe` of both.
const FIRST_SCRIPT: &str = "#!ipxe\nchain ipxe?uuid=${uuid}&mac=${net0/mac:hexhyp}&ip=${ip}&domain=${domain}\
                            &hostname=${hostname}&serial=${serial}\n";

fn site(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(kind)
}

/// A daemon with the data directory `dir` of a site of this kind.
fn daemon_with(kind: &'static str, dir: PathBuf) -> Daemon {
    Daemon::start_with(move |config| format!("{config}[compat]\n{kind} = '{}'\n", dir.display()))
}

/// Compares status and, where one is expected, body.
fn check(daemon: &Daemon, path: &str, status: u16, body: Option<&str>) {
    let answer = daemon.get(path);
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{path}: {text}");
    if let Some(body) = body {
        assert_eq!(text, body, "{path}");
    }
}

#[test]
fn a_bootcfg_site_is_answered_byte_for_byte() {
    let daemon = daemon_with("bootcfg", site("bootcfg"));
    let ok = |path: &str, body: &str| check(&daemon, path, 200, Some(body));
    let missing = |path: &str| check(&daemon, path, 404, None);
    ok("/boot.ipxe", FIRST_SCRIPT);
    ok("/boot.ipxe.0", FIRST_SCRIPT);

    let by_uuid = format!(
        "#!ipxe\nkernel {KERNEL} cloud-config-url=http://bootcfg.example.com/cloud?uuid=${{uuid}}&mac=${{net0/mac:hexhyp}} \
         console=ttyS0 coreos.autologin\ninitrd /images/coreos/835.9.0/coreos_production_pxe_image.cpio.gz \nboot\n"
    );
    let by_mac = format!(
        "#!ipxe\nkernel {KERNEL} debug quiet root=/dev/sda1 speed=115200\ninitrd /images/a.cpio.gz /images/b.cpio.gz \nboot\n"
    );
    let by_default = "#!ipxe\nkernel /images/default/vmlinuz\ninitrd /images/default/initrd \nboot\n";
    ok(&format!("/ipxe?uuid={UUID}&mac=52-54-00-a1-9c-ae&ip=&domain=&hostname=&serial="), &by_uuid);
    ok("/ipxe?uuid=another&mac=52-54-00-A1-9C-AE", &by_mac);
    ok("/ipxe?mac=5254.00a1.9cae&mac=nonsense", &by_mac);
    ok("/ipxe?uuid=&mac=02-00-00-00-00-09", by_default);
    // As it came, and what is no address is ignored.
    ok(&format!("/ipxe?uuid={}", UUID.to_uppercase()), by_default);
    ok("/ipxe?mac=nonsense", by_default);
    ok("/ipxe", by_default);
    for uuid in
        ["../../cloud/default", "..%2f..%2fcloud%2fdefault", "..", ".", "%00", "../mac/52:54:00:a1:9c:ae"]
    {
        ok(&format!("/ipxe?uuid={uuid}"), by_default);
    }
    let infiniband = "80-00-00-48-fe-80-00-00-00-00-00-00-00-02-c9-03-00-00-0f-39";
    ok(&format!("/ipxe?mac={infiniband}"), "#!ipxe\nkernel /images/infiniband\ninitrd \nboot\n");
    // Not valid, and the default is not for it.
    missing("/ipxe?mac=52-54-00-00-00-0b");

    let json = r#"{"kernel":"/images/coreos/835.9.0/coreos_production_pxe.vmlinuz","initrd":["/images/a.cpio.gz","/images/b.cpio.gz"],"cmdline":{"debug":false,"quiet":null,"root":"/dev/sda1","speed":115200}}"#;
    ok("/pixiecore/v1/boot/52:54:00:A1:9C:AE", json);
    ok("/v1/boot/52-54-00-a1-9c-ae", json);
    ok(
        &format!("/pixiecore/v1/boot/{infiniband}"),
        r#"{"kernel":"/images/infiniband","initrd":[],"cmdline":{}}"#,
    );
    missing("/pixiecore/v1/boot/52:54:00:00:00:0b");
    check(&daemon, "/pixiecore/v1/boot/52:54:00", 400, Some("invalid MAC address\n"));
    check(&daemon, "/pixiecore/v1/boot/525400a19cae", 400, Some("invalid MAC address\n"));
    missing("/pixiecore/v1/boot/");

    ok(&format!("/cloud?uuid={UUID}&mac=52-54-00-a1-9c-ae"), "#cloud-config\nhostname: by-uuid\n");
    ok("/cloud?mac=52-54-00-a1-9c-ae", "#cloud-config\nhostname: by-mac\n");
    ok("/cloud?uuid=../../boot/default", "#cloud-config\nhostname: default\n");
    // None of matchbox's.
    for path in ["/", "/grub", "/ignition", "/metadata", "/generic", "/assets/x", "/cloud.sig"] {
        missing(path);
    }
}

#[test]
fn a_cloud_config_has_ranges_and_head() {
    let daemon = daemon_with("bootcfg", site("bootcfg"));
    let part = daemon.request("GET", "/cloud", &[("Range", "bytes=1-12")]);
    assert_eq!((part.status, part.text().as_str()), (206, "cloud-config"));
    assert_eq!(part.header("content-range"), Some("bytes 1-12/32"));
    let head = daemon.request("HEAD", "/cloud", &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("32"), 0));
    assert_eq!(head.header("content-type"), Some("text/plain; charset=utf-8"));
    let etag = daemon.get("/cloud").header("etag").unwrap().to_owned();
    assert_eq!(daemon.request("GET", "/cloud", &[("If-None-Match", &etag)]).status, 304);
}

#[test]
fn images_of_the_store_come_before_those_of_bootcfg() {
    let daemon = daemon_with("bootcfg", site("bootcfg"));
    let ok = |path: &str, body: &str| check(&daemon, path, 200, Some(body));
    ok(KERNEL, "kernel of bootcfg");
    ok("/images/top.img", "top");
    ok(&format!("/images/{IMAGE}/vmlinuz"), "kernel");
    ok(&format!("/images/{IMAGE}/extra.img"), "only in bootcfg");
    let part = daemon.request("GET", KERNEL, &[("Range", "bytes=-7")]);
    assert_eq!((part.status, part.text().as_str()), (206, "bootcfg"));
    for path in [
        "/images/",
        "/images/coreos",
        "/images/nosuch",
        "/images/../boot/default",
        "/images/..%2fboot%2fdefault",
        "/images/a/b/..%2f..%2f..%2fboot%2fdefault",
    ] {
        check(&daemon, path, 404, None);
    }
}

#[test]
fn no_link_leads_out_of_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for sub in ["boot/mac", "cloud", "images"] {
        fs::create_dir_all(data.join(sub)).unwrap();
    }
    fs::write(dir.path().join("secret"), r#"{"kernel": "secret"}"#).unwrap();
    for link in ["boot/default", "cloud/default", "images/secret"] {
        symlink(dir.path().join("secret"), data.join(link)).unwrap();
    }
    fs::write(data.join("shared"), r#"{"kernel": "/shared"}"#).unwrap();
    symlink("../../shared", data.join("boot/mac/52:54:00:a1:9c:ae")).unwrap();
    let daemon = daemon_with("bootcfg", data);
    for path in ["/ipxe", "/cloud", "/images/secret", "/pixiecore/v1/boot/02:00:00:00:00:01"] {
        check(&daemon, path, 404, None);
    }
    check(&daemon, "/ipxe?mac=52:54:00:a1:9c:ae", 200, Some("#!ipxe\nkernel /shared\ninitrd \nboot\n"));
}

#[test]
fn a_matchbox_site_is_answered_byte_for_byte() {
    let daemon = daemon_with("matchbox", site("matchbox"));
    let ok = |path: &str, body: &str| check(&daemon, path, 200, Some(body));
    ok("/", "matchbox\n");
    ok("/boot.ipxe", FIRST_SCRIPT);
    let discovery = "#!ipxe\nkernel /assets/discovery/vmlinuz\nboot\n";
    let controller = "#!ipxe\n\
        kernel /assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz initrd=coreos_production_pxe_image.cpio.gz \
        coreos.config.url=http://matchbox.example.com:8080/ignition?uuid=${uuid}&mac=${mac:hexhyp} coreos.first_boot=yes\n\
        initrd /assets/coreos/1967.3.0/coreos_production_pxe_image.cpio.gz\n\
        initrd --name extra /assets/extra.cpio.gz\n\
        boot\n";
    ok("/ipxe", discovery);
    ok("/ipxe?mac=nonsense&region=west", discovery);
    ok("/ipxe?uuid=x&mac=52-54-00-a1-9c-ae&region=West", controller);
    ok("/ipxe?mac=52-54-00-a1-9c-ae&os=installed", "#!ipxe\nkernel /assets/k\nboot\n");
    // One selector each: the greater text wins.
    ok("/ipxe?mac=52-54-00-a1-9c-ae&region=east", "#!ipxe\nkernel /assets/k\nboot\n");
    let grub = "default=0\nfallback=1\ntimeout=1\n\
        menuentry \"CoreOS (EFI)\" {\necho \"Loading kernel\"\nlinuxefi \"/assets/discovery/vmlinuz\"\n\
        echo \"Loading initrd\"\ninitrdefi \n}\n\
        menuentry \"CoreOS (BIOS)\" {\necho \"Loading kernel\"\nlinux \"/assets/discovery/vmlinuz\"\n\
        echo \"Loading initrd\"\ninitrd \n}\n";
    ok("/grub", grub);

    ok("/ignition?mac=52-54-00-a1-9c-ae", "{\"ignition\": {\"version\": \"2.2.0\"}, \"passwd\": {}}\n");
    let installed = "{\"ignition\": {\"version\": \"2.2.0\"}, \"os\": \"installed\"}\n";
    ok("/ignition?mac=52-54-00-a1-9c-ae&os=installed", installed);
    let cloud = "#cloud-config\nhostname: node1.example.com\nssh_authorized_keys:\n  - ssh-rsa AAAA admin@example.com\n";
    ok("/cloud?mac=52-54-00-a1-9c-ae", cloud);
    let generic = "{\"name\": \"node1\", \"mac\": \"52:54:00:a1:9c:ae\", \"peers\": \
        \"node1=https://node1:2380,node2=https://node2:2380\", \"tls\": true, \"replicas\": 3, \"query\": \"mac=52-54-00-a1-9c-ae\"}\n";
    ok("/generic?mac=52-54-00-a1-9c-ae", generic);
    let metadata = "DOMAIN_NAME=node1.example.com\nETCD_TLS=true\nETCD_NAME=node1\nREPLICAS=3\nMAC=52:54:00:a1:9c:ae\n\
        REQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_RAW_QUERY=mac=52-54-00-a1-9c-ae\n";
    ok("/metadata?mac=52-54-00-a1-9c-ae", metadata);

    // A profile or config that is not there, a variable that is missing, YAML that is not translated, a way out.
    for path in [
        "/ipxe?rack=7",
        "/grub?rack=7",
        "/ignition?rack=7",
        "/cloud?rack=7",
        "/generic?rack=7",
        "/pixiecore/v1/boot/nosuch.json",
        "/ignition",
        "/cloud",
        "/generic",
        "/generic?mac=52-54-00-a1-9c-ae&os=installed",
        "/ignition?region=east",
        "/cloud?region=east",
        "/generic?region=east",
        "/images/top.img",
        "/nosuch",
    ] {
        let status = if path.contains("/v1/boot/") { 400 } else { 404 };
        check(&daemon, path, status, None);
    }
    let json = r#"{"kernel":"/assets/discovery/vmlinuz","initrd":[],"cmdline":""}"#;
    ok("/pixiecore/v1/boot/02:00:00:00:00:09", json);
}

#[test]
fn matchbox_serves_assets_and_the_signatures_that_lie_beside() {
    let daemon = daemon_with("matchbox", site("matchbox"));
    let kernel = "/assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz";
    let ok = |path: &str, body: &str| check(&daemon, path, 200, Some(body));
    ok(kernel, "kernel of matchbox");
    ok(&format!("{kernel}.sig"), "sig");
    let part = daemon.request("GET", kernel, &[("Range", "bytes=0-5")]);
    assert_eq!((part.status, part.text().as_str()), (206, "kernel"));
    let mac = "mac=52-54-00-a1-9c-ae";
    ok(&format!("/ignition.sig?{mac}"), "a binary signature");
    ok(&format!("/ignition.asc?{mac}"), "-----BEGIN PGP SIGNATURE-----\n");
    ok(&format!("/ipxe.sig?{mac}"), "profile signature");
    ok("/boot.ipxe.sig", "script signature");
    ok("/boot.ipxe.0.sig", "script signature");
    for path in [
        &format!("/ipxe.asc?{mac}"),
        "/ipxe.sig",
        "/boot.ipxe.asc",
        "/grub.sig",
        "/metadata.sig",
        "/generic.sig",
        "/cloud.asc",
        "/ignition.sig?rack=7",
        "/assets/",
        "/assets/coreos",
        "/assets/../groups/default.json",
        "/assets/..%2fgroups%2fdefault.json",
        "/assets/%2fetc%2fpasswd",
    ] {
        check(&daemon, path, 404, None);
    }
}

#[test]
fn a_node_of_ours_boots_our_image_by_each_of_the_routes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("boot/mac")).unwrap();
    fs::write(data.join("boot/mac").join(NODE_MAC), r#"{"kernel": "/not-this"}"#).unwrap();
    let daemon = daemon_with("bootcfg", data);
    let hyphenated = NODE_MAC.replace(':', "-");
    for query in
        [format!("mac={NODE_MAC}"), format!("uuid={UUID}&mac={hyphenated}&ip=&domain=&hostname=&serial=")]
    {
        let script = daemon.get(&format!("/ipxe?{query}")).text();
        assert!(script.contains(&format!("kernel {}/images/{IMAGE}/vmlinuz", daemon.url())), "{script}");
    }
    let answer = daemon.json(&format!("/pixiecore/v1/boot/{NODE_MAC}"));
    assert!(answer["kernel"].as_str().unwrap().contains(&format!("/images/{IMAGE}/vmlinuz")), "{answer}");
    // The directory is there, and says nothing of strangers.
    check(&daemon, "/ipxe?mac=02-00-00-00-00-09", 404, None);
    check(&daemon, "/ipxe", 404, None);
}

#[test]
fn a_stranger_boots_the_default_image_if_the_data_directory_says_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_owned();
    let daemon = Daemon::start_with(move |config| {
        let config = config.replace("[boot]\n", "[boot]\ndefault_image = 'failsafe'\n");
        format!("{config}[compat]\nbootcfg = '{}'\n", data.display())
    });
    let stranger = "02:00:00:00:00:09";
    let script = || daemon.get(&format!("/ipxe?mac={stranger}")).text();
    assert!(script().contains("/images/failsafe/v1/vmlinuz"), "{}", script());
    check(&daemon, "/ipxe?uuid=x", 404, None);
    let first = daemon.get(&format!("/v1/boot/{stranger}"));
    assert_eq!((first.status, first.body), (200, daemon.get(&format!("/v1/boot/{stranger}")).body));
    fs::create_dir(dir.path().join("boot")).unwrap();
    fs::write(dir.path().join("boot/default"), r#"{"kernel": "/k"}"#).unwrap();
    assert_eq!(script(), "#!ipxe\nkernel /k\ninitrd \nboot\n");
    fs::write(dir.path().join("boot/default"), "nonsense").unwrap();
    check(&daemon, &format!("/ipxe?mac={stranger}"), 404, None);
}

/// How many scripts the log of boots has of a machine.
fn scripts(daemon: &Daemon, mac: &str) -> usize {
    let events = daemon.json(&format!("/v1/nodes/{mac}/events"));
    events.as_array().unwrap().iter().filter(|event| event["phase"] == "script").count()
}

#[test]
fn pixiecore_is_told_our_decision_and_a_repeated_call_begins_no_other_boot() {
    let daemon = Daemon::start();
    let ask = |mac: &str| daemon.json(&format!("/v1/boot/{mac}"));
    let first = ask(CARRIED_MAC);
    assert_eq!(ask(&CARRIED_MAC.to_uppercase()), first);
    assert_eq!(daemon.json(&format!("/pixiecore/v1/boot/{}", CARRIED_MAC.replace(':', "-"))), first);
    assert_eq!(scripts(&daemon, CARRIED_MAC), 1);
    let kernel = first["kernel"].as_str().unwrap();
    let id = kernel.split("?boot=").nth(1).unwrap();
    let url = daemon.url();
    let expected = json!({
        "kernel": format!("{url}/images/compute/v1/vmlinuz?boot={id}"),
        "initrd": [format!("{url}/images/compute/v1/initramfs.img?boot={id}")],
        "cmdline": format!(
            "quiet console=ttyS0 bootnode.node=node-001 bootnode.mac={CARRIED_MAC} bootnode.boot={id} \
             bootnode.report={url} bootnode.min_rollback_index=3"
        ),
    });
    assert_eq!(first, expected);

    // The machine has loaded its kernel: the next call is of another boot.
    assert_eq!(daemon.get(kernel.strip_prefix(&url).unwrap()).status, 200);
    let path = format!("/v1/nodes/{CARRIED_MAC}/events");
    daemon
        .wait_for(&path, |events| events.as_array().unwrap().iter().any(|event| event["phase"] == "kernel"));
    let second = ask(CARRIED_MAC);
    assert_ne!(second["kernel"], first["kernel"]);
    assert!(second["cmdline"].as_str().unwrap().ends_with("bootnode.attempt=1"), "{second}");
    assert_eq!(ask(CARRIED_MAC), second);
    assert_eq!(scripts(&daemon, CARRIED_MAC), 2);
}

#[test]
fn pixiecore_is_told_of_no_machine_that_boots_nothing() {
    let daemon = Daemon::start();
    let status = |mac: &str| daemon.get(&format!("/v1/boot/{mac}")).status;
    assert_eq!(status(FETCHED_MAC), 200);
    assert_eq!(status("02:00:00:00:00:09"), 404, "a stranger");
    assert_eq!(status(MISFIT_MAC), 404, "a node whose image cannot boot in its mode");
    assert_eq!(status("02:00:5e:10:00:00:00:01"), 404, "no Ethernet");
    assert_eq!(status("nonsense"), 400);
    assert_eq!(daemon.request("HEAD", &format!("/v1/boot/{NODE_MAC}"), &[]).status, 200);
    assert_eq!(scripts(&daemon, NODE_MAC), 0);
    // Without a data directory there are no such routes.
    for path in ["/", "/cloud", "/grub", "/assets/x", "/images/x", "/ipxe.sig"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_data_directory_is_taken_up_without_a_restart() {
    let daemon = Daemon::start();
    let script = || daemon.get("/ipxe?mac=02-00-00-00-00-09").text();
    assert!(script().contains("nothing to boot"), "{}", script());
    let text = fs::read_to_string(daemon.config_file()).unwrap();
    fs::write(daemon.config_file(), format!("{text}[compat]\nmatchbox = '{}'\n", site("matchbox").display()))
        .unwrap();
    assert!(wait_until(|| script() == "#!ipxe\nkernel /assets/discovery/vmlinuz\nboot\n"), "{}", script());
    let nodes: Value = daemon.json("/v1/nodes");
    assert_eq!(nodes.as_array().unwrap().len(), 4);
}
