//! What BMCs answer by Redfish.
#![no_main]

use bootserve::power::redfish::resource::{ActionInfo, Reset, Root, System, Systems, refusal};
use bootserve::power::{Change, PowerState};
use libfuzzer_sys::fuzz_target;

const CHANGES: [Change; 4] = [Change::On, Change::Off, Change::Shutdown, Change::Cycle];

fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<Root>(data);
    if let Ok(systems) = serde_json::from_slice::<Systems>(data)
        && let Ok(only) = systems.choose(None)
    {
        assert!(systems.members == [only.clone()], "none is guessed at");
    }
    if let Ok(system) = serde_json::from_slice::<System>(data) {
        if let PowerState::Other(state) = system.power() {
            check_text(&state);
        }
        system.reset().iter().for_each(|reset| check_reset(reset));
    }
    if let Ok(info) = serde_json::from_slice::<ActionInfo>(data) {
        check_reset(&Reset::default().with(info));
    }
    refusal(data).iter().for_each(|text| check_text(text));
});

fn check_reset(reset: &Reset) {
    for change in CHANGES {
        if let Err(offered) = reset.choose(change) {
            check_text(&offered);
        }
    }
}

/// It is short, and one line without escapes.
fn check_text(text: &str) {
    assert!(text.chars().count() <= 300 && !text.contains(char::is_control));
}
