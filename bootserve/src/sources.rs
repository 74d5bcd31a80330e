//! Where nodes in fetched mode find an image: on this server and on its mirrors.

use bootspec::cmdline::Sources;
use bootspec::store::HTTP_PREFIX;
use bootspec::{ImageRef, MacAddr};

use crate::config::Config;

/// Knuth's multiplicative hashing: 2^64 divided by the golden ratio. MAC addresses of one hall differ in few bits, often by
/// the same step, and are spread evenly all the same.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// The URLs of `image` on all servers. Each machine begins at a place of its own in the list and goes through it in order,
/// so that the servers share the load and a server that fails leaves its machines to the one behind it.
pub fn sources(config: &Config, mac: MacAddr, image: &ImageRef) -> Sources {
    let own = config.base_url();
    let mirrors = config.boot.mirrors.iter().map(|mirror| mirror.as_str());
    let mut urls = vec![own.as_str()];
    // The mirrors may share one list that names all of them.
    urls.extend(mirrors.filter(|mirror| *mirror != own));
    let first = place(mac, urls.len());
    urls.rotate_left(first);
    let urls: Vec<_> = urls.iter().map(|url| format!("{url}{HTTP_PREFIX}/{image}")).collect();
    urls.join(",").parse().expect("names of images and base URLs hold nothing that a source may not hold")
}

fn place(mac: MacAddr, count: usize) -> usize {
    let [a, b, c, d, e, f] = mac.octets();
    let hash = u64::from_be_bytes([0, 0, a, b, c, d, e, f]).wrapping_mul(GOLDEN_RATIO) >> 32;
    // The high half times the count is a place below the count, evenly for every count.
    (hash as usize * count) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mirrors: &str) -> Config {
        let text = include_str!("../bootserve.example.toml");
        Config::parse(&text.replace("[boot]", &format!("[boot]\nmirrors = {mirrors}"))).unwrap()
    }

    fn mac(number: u16) -> MacAddr {
        let [e, f] = number.to_be_bytes();
        MacAddr::new([0xfc, 0xab, 0x14, 0xe8, e, f])
    }

    fn urls(config: &Config, mac: MacAddr) -> Vec<String> {
        let sources = sources(config, mac, &"compute/1".parse().unwrap());
        sources.urls().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_mirrors_there_is_one_source() {
        assert_eq!(urls(&config("[]"), mac(1)), ["http://192.168.0.1/images/compute/1"]);
    }

    #[test]
    fn every_machine_is_told_all_servers_once_in_the_same_round() {
        let config = config("['http://192.168.0.1', 'http://192.168.0.2:8080', 'http://192.168.0.3/x']");
        let round = [
            "http://192.168.0.1/images/compute/1",
            "http://192.168.0.2:8080/images/compute/1",
            "http://192.168.0.3/x/images/compute/1",
        ];
        let (mut again, mut seen) = (round.repeat(2), [0; 3]);
        again.pop();
        for number in 0..30 {
            let urls = urls(&config, mac(number));
            let start = again.windows(3).position(|window| window == urls).unwrap();
            seen[start] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    #[test]
    fn machines_are_spread_evenly_whatever_the_step_of_their_addresses() {
        for step in [1, 2, 3, 4, 8, 16, 256] {
            for count in 2..=9 {
                let mut machines = vec![0_u32; count];
                for number in 0..240_u16 {
                    machines[place(mac(number.wrapping_mul(step)), count)] += 1;
                }
                let fair = 240.0 / count as f64;
                let most = f64::from(*machines.iter().max().unwrap());
                assert!(most <= 1.5 * fair, "step {step}, {count} servers: {machines:?}");
            }
        }
    }
}
