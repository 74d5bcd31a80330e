//! What came of a boot, as a table for people and as JSON for programs.

use bootspec::event::Phase;
use serde::Serialize;

use crate::firmware::Firmware;
use crate::qemu::NodeSpec;
use crate::timeline::{Parts, Timeline};

/// One node that came as far as expected.
#[derive(Clone, Debug, Serialize)]
pub struct BootReport {
    node: String,
    image: String,
    firmware: Firmware,
    /// The last phase it reached.
    reached: Option<Phase>,
    seconds: Parts,
}

impl BootReport {
    /// The report on a boot.
    pub fn new(spec: &NodeSpec, timeline: &Timeline) -> Self {
        Self {
            node: spec.name.to_string(),
            image: spec.image.clone(),
            firmware: spec.firmware,
            reached: timeline.last(),
            seconds: timeline.parts(),
        }
    }

    fn cells(&self) -> [String; 10] {
        let seconds =
            |part: Option<f64>| part.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
        let Parts { dhcp, nbp, kernel, unpack, systemd, total } = self.seconds;
        let [dhcp, nbp, kernel, unpack, systemd, total] =
            [dhcp, nbp, kernel, unpack, systemd, total].map(seconds);
        let (node, image) = (self.node.clone(), self.image.clone());
        let (firmware, reached) = (
            self.firmware.to_string(),
            self.reached.map_or_else(|| "-".to_owned(), |phase| phase.to_string()),
        );
        [node, image, firmware, dhcp, nbp, kernel, unpack, systemd, total, reached]
    }
}

const HEADINGS: [&str; 10] =
    ["node", "image", "firmware", "DHCP", "NBP", "kernel", "unpack", "systemd", "total", "reached"];
/// The columns of seconds are aligned to the right.
const NUMBERS: std::ops::Range<usize> = 3..9;

/// A line of headings and a line for each report; times are in seconds.
pub fn table(reports: &[BootReport]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(reports.iter().map(BootReport::cells));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let line = |row: &[String; 10]| {
        let cell = |(column, text): (usize, &String)| match NUMBERS.contains(&column) {
            true => format!("{text:>width$}", width = width(column)),
            false => format!("{text:<width$}", width = width(column)),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn columns_are_aligned_and_missing_parts_are_dashes() {
        let mut timeline = Timeline::new(UNIX_EPOCH);
        for (phase, seconds) in
            [(Phase::Dhcp, 3), (Phase::Script, 5), (Phase::Init, 115), (Phase::Ready, 120)]
        {
            timeline.record(phase, UNIX_EPOCH + Duration::from_secs(seconds));
        }
        let report = BootReport::new(&NodeSpec::classic(0, "failsafe"), &timeline);
        let expected = "\
node      image     firmware  DHCP  NBP  kernel  unpack  systemd  total  reached
node-000  failsafe  bios       3.0  2.0   110.0       -      5.0  120.0  ready";
        assert_eq!(table(&[report]), expected);
    }
}
