use super::*;
use crate::config::Config;
use crate::nbp::NbpSet;
use bootspec::event::Event;
use std::io::{self, Write};

const NODE_001: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02]);

async fn log() -> (tempfile::TempDir, EventLog) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
    let database = Database::open(dir.path()).await.unwrap();
    (dir, EventLog::new(database, Arc::new(Live::new(config, NbpSet::default()))))
}

fn report(events: &[(Phase, u64)]) -> Report {
    Report {
        mac: NODE_001,
        node: None,
        boot: Some(BootId::new(7)),
        image: "compute/1".parse().unwrap(),
        uptime_ms: 30_000,
        events: events
            .iter()
            .map(|(phase, uptime_ms)| Event {
                phase: *phase,
                uptime_ms: *uptime_ms,
                message: None,
                console: None,
            })
            .collect(),
    }
}

#[test]
fn reported_times_are_put_on_our_clock() {
    let received = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let events = BootEvent::from_report(report(&[(Phase::Init, 5_000), (Phase::Ready, 40_000)]), received);
    assert_eq!(events[0].time_unix_ms, 975_000);
    assert_eq!(events[1].time_unix_ms, 1_000_000, "an event after the report is no older than the report");
}

#[tokio::test]
async fn a_repeated_report_is_stored_once() {
    let (_dir, log) = log().await;
    for events in [&[(Phase::Init, 5_000)][..], &[(Phase::Init, 5_000), (Phase::Ready, 29_000)]] {
        log.record(BootEvent::from_report(report(events), SystemTime::now())).await.unwrap();
    }
    let phases: Vec<_> = log.events_of(NODE_001).await.unwrap().iter().map(|event| event.phase).collect();
    assert_eq!(phases, [Phase::Init, Phase::Ready]);
    assert_eq!(log.latest().await.unwrap()[&NODE_001].phase, Phase::Ready);
}

#[tokio::test]
async fn reports_of_one_boot_are_on_one_clock_whatever_their_delays() {
    let (_dir, log) = log().await;
    let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let init_and_network = [(Phase::Init, 3_000), (Phase::Network, 3_001)];
    let all = [(Phase::Init, 3_000), (Phase::Network, 3_001), (Phase::Unpack, 3_500)];
    // The first report travels for two seconds, the second for one.
    for (events, uptime_ms, received_after) in
        [(&init_and_network[..], 3_100, 2_000), (&all[..], 3_600, 1_500)]
    {
        let received = sent + Duration::from_millis(received_after);
        log.record(BootEvent::from_report(Report { uptime_ms, ..report(events) }, received)).await.unwrap();
    }
    let events = log.events_of(NODE_001).await.unwrap();
    let times: Vec<_> = events.iter().map(|event| (event.phase, event.time_unix_ms)).collect();
    // The kernel started 3.6 seconds before the second report arrived at 1001.5.
    let start = 1_001_500 - 3_600;
    assert_eq!(
        times,
        [(Phase::Init, start + 3_000), (Phase::Network, start + 3_001), (Phase::Unpack, start + 3_500)]
    );
}

#[tokio::test]
async fn clocks_out_of_all_range_do_no_harm() {
    let (_dir, log) = log().await;
    for uptime_ms in [u64::MAX, 0, 30_000] {
        let events = report(&[(Phase::Init, u64::MAX), (Phase::Network, 0), (Phase::Unpack, 20_000)]);
        let events = BootEvent::from_report(Report { uptime_ms, ..events }, SystemTime::now());
        log.record(events).await.unwrap();
    }
    assert!(!log.events_of(NODE_001).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_failure_is_a_warning_with_its_code() {
    let (_dir, log) = log().await;
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let message = Some("[E-VERIFY] chunk 3 is damaged".to_owned());
    let event = BootEvent { message, ..BootEvent::now(NODE_001, Phase::Failed) };
    tracing::subscriber::with_default(subscriber, || log.publish(&[event]));
    let text = lines.text();
    for part in [
        " WARN ",
        "boot failed",
        "mac=fc:ab:14:e8:66:02",
        "node=\"node-001\"",
        "code=\"E-VERIFY\"",
        "chunk 3",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_code_of_a_failure_is_read_from_its_message() {
    let cases = [
        ("[E-VERIFY] chunk 3 is damaged", Some("E-VERIFY")),
        ("[E-X]", Some("E-X")),
        ("E-VERIFY", None),
        ("[E-", None),
        ("]E-[", None),
        ("", None),
    ];
    for (message, code) in cases {
        assert_eq!(failure_code(message), code, "{message}");
    }
}

#[tokio::test]
async fn a_reported_boot_id_is_stored_only_if_the_machine_was_given_it() {
    let id = Some(BootId::new(7));
    let node_000 = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
    for (given_to, expected) in [(Some(NODE_001), id), (Some(node_000), None), (None, None)] {
        let (_dir, log) = log().await;
        if let Some(mac) = given_to {
            log.note(BootEvent { boot: id, ..BootEvent::now(mac, Phase::Script) }).await;
        }
        log.record_report(report(&[(Phase::Ready, 5_000)]), SystemTime::now()).await.unwrap();
        assert_eq!(log.latest().await.unwrap()[&NODE_001].boot, expected, "given to {given_to:?}");
    }
}

#[tokio::test]
async fn a_machine_boots_from_its_dhcp_until_it_reports_that_the_system_is_up() {
    let (_dir, log) = log().await;
    let mut seen = vec![log.is_booting(NODE_001).await.unwrap()];
    let given = BootEvent { boot: Some(BootId::new(7)), ..BootEvent::now(NODE_001, Phase::Script) };
    for event in [BootEvent::now(NODE_001, Phase::Dhcp), given] {
        log.note(event).await;
        seen.push(log.is_booting(NODE_001).await.unwrap());
    }
    let unknown = Report { boot: Some(BootId::new(8)), ..report(&[(Phase::Ready, 1)]) };
    let forged = report(&[(Phase::Dhcp, 3)]);
    for report in [unknown, report(&[(Phase::Unpack, 1)]), report(&[(Phase::Ready, 2)]), forged] {
        log.record_report(report, SystemTime::now()).await.unwrap();
        seen.push(log.is_booting(NODE_001).await.unwrap());
    }
    log.note(BootEvent::now(NODE_001, Phase::Dhcp)).await;
    seen.push(log.is_booting(NODE_001).await.unwrap());
    assert_eq!(seen, [false, true, true, true, true, false, false, true]);
}

#[tokio::test]
async fn attempts_count_scripts_since_the_last_ready() {
    let (_dir, log) = log().await;
    let mut seen = Vec::new();
    for phase in [Phase::Script, Phase::Script, Phase::Ready, Phase::Script] {
        log.note(BootEvent::now(NODE_001, phase)).await;
        seen.push(log.attempts(NODE_001).await.unwrap());
    }
    assert_eq!(seen, [1, 2, 0, 1]);
}

#[tokio::test]
async fn a_boot_is_found_by_the_id_of_its_script() {
    let (_dir, log) = log().await;
    let image: ImageRef = "compute/1".parse().unwrap();
    let script = BootEvent::now(NODE_001, Phase::Script);
    let id = BootId::new(9);
    log.note(BootEvent { boot: Some(id), image: Some(image.clone()), ..script }).await;
    assert_eq!(log.boot(id).await.unwrap(), Some(Boot { mac: NODE_001, image: Some(image) }));
    assert_eq!(log.boot(BootId::new(10)).await.unwrap(), None);
}

#[tokio::test]
async fn of_what_was_refused_the_newest_is_kept_and_pushes_out_nothing_else() {
    let (_dir, log) = log().await;
    log.note(BootEvent::now(NODE_001, Phase::Dhcp)).await;
    let many = MAX_REFUSALS_PER_NODE + 20;
    log.record((0..many).map(|_| BootEvent::now(NODE_001, Phase::Refused)).collect()).await.unwrap();
    let kept = log.events_of(NODE_001).await.unwrap();
    let refused = kept.iter().filter(|event| event.phase == Phase::Refused).count();
    assert_eq!((refused as u32, kept.len() - refused), (MAX_REFUSALS_PER_NODE, 1));
}

#[tokio::test]
async fn only_the_newest_events_are_kept() {
    let (_dir, log) = log().await;
    let many = MAX_EVENTS_PER_NODE + 20;
    let events = (0..many).map(|_| BootEvent::now(NODE_001, Phase::Dhcp)).collect();
    log.record(events).await.unwrap();
    assert_eq!(log.events_of(NODE_001).await.unwrap().len() as u32, MAX_EVENTS_PER_NODE);
}
