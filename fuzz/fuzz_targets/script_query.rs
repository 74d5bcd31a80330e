//! URLs of scripts. A machine that one names is named alike by the URL that we make for it, and its script has no line but ours.
#![no_main]

use axum::extract::Query;
use axum::http::Uri;
use bootserve::http::script_url;
use bootserve::http::scripts::MachineQuery;
use bootserve::script::next_device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let Some(mac) = machine(&format!("/ipxe?{query}")) else { return };
    assert_eq!(machine(&script_url("http://192.168.0.1", mac)), Some(mac));
    // What the client has written is not in it.
    let script = next_device(mac, "it is none of ours");
    assert!(script.starts_with("#!ipxe\n") && script.contains(&mac.to_string()));
    assert_eq!(
        script.lines().count(),
        next_device(bootspec::MacAddr::new([0; 6]), "it is none of ours").lines().count()
    );
});

fn machine(url: &str) -> Option<bootspec::MacAddr> {
    let url: Uri = url.parse().ok()?;
    Query::<MachineQuery>::try_from_uri(&url).ok()?.0.mac().ok()
}
