//! ISC dhcpd.conf(5): `host NAME { hardware ethernet MAC; fixed-address ADDRESS; }`, wherever it stands.

use super::Host;

/// All `host` declarations.
pub(super) fn hosts(text: &str) -> Vec<Host> {
    let tokens = tokens(text);
    let mut hosts = Vec::new();
    let mut rest = &tokens[..];
    while let [first, behind @ ..] = rest {
        rest = behind;
        if let ("host", [name, open, body @ ..]) = (first.as_str(), behind)
            && open == "{"
        {
            let (host, after) = host(name, body);
            hosts.push(host);
            rest = after;
        }
    }
    hosts
}

/// The statements up to the closing brace, and what is behind it.
fn host<'a>(name: &str, mut body: &'a [String]) -> (Host, &'a [String]) {
    let mut host = Host { name: name.to_owned(), ..Host::default() };
    let mut depth = 0;
    let mut statement: Vec<&str> = Vec::new();
    while let [token, behind @ ..] = body {
        body = behind;
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => break,
            "}" => depth -= 1,
            ";" => {
                take(&mut host, &statement);
                statement.clear();
                continue;
            }
            other => {
                statement.push(other);
                continue;
            }
        }
        statement.clear();
    }
    (host, body)
}

fn take(host: &mut Host, statement: &[&str]) {
    match statement {
        ["hardware", "ethernet", mac] => host.macs.push((*mac).to_owned()),
        ["fixed-address", addresses @ ..] => {
            host.address = addresses.iter().find_map(|address| address.parse().ok());
        }
        _ => {}
    }
}

/// Words, strings without their quotes, and `{`, `}` and `;`. Commas and comments are passed over.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '#' => {
                characters.by_ref().find(|next| *next == '\n');
                tokens.push(String::new());
            }
            '"' => {
                tokens.push(characters.by_ref().take_while(|next| *next != '"').collect());
                tokens.push(String::new());
            }
            '{' | '}' | ';' => tokens.extend([character.to_string(), String::new()]),
            ',' => tokens.push(String::new()),
            space if space.is_whitespace() => tokens.push(String::new()),
            other => tokens.last_mut().expect("there is one at the beginning").push(other),
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}
