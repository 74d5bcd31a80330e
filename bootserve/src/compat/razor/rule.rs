//! Razor's rules of tags: `["and", ["=", ["fact", "processorcount", "0"], "8"], ["has_macaddress", "52:54:00:a1:9c:ae"]]`.
//!
//! A rule is JSON: an operator and its arguments, which are texts, numbers, booleans, null or rules themselves. As in Razor, all arguments
//! are evaluated before the operator looks at them, so a fact that is missing counts wherever it stands. Read once, at the configuration's
//! check, which says where a rule is wrong: `[2][0]` is the first part of the third. What an evaluation costs is bounded.

use std::fmt;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;

use super::facts::Facter;
use crate::discovery::rule::{Facts, Rule, RuleError};

/// A longer rule is a mistake.
const MAX_BYTES: usize = 16 << 10;
/// Rules within rules, those of tags that they name among them.
const MAX_DEPTH: usize = 32;
/// How many parts of rules are looked at for one machine.
const FUEL: u32 = 20_000;
/// What a pattern takes in memory, and with it the time that it takes.
const MAX_PATTERN_BYTES: usize = 32 << 10;
const MAX_PATTERN_DEPTH: u32 = 32;
/// A longer text is compared to no pattern.
const MAX_MATCHED_BYTES: usize = 4096;

/// A rule that was read.
#[derive(Clone, Debug)]
pub struct RazorRule {
    source: Arc<str>,
    root: Arc<Part>,
    depth: usize,
}

#[derive(Debug)]
enum Part {
    Value(Value),
    Call(Operator, Vec<Part>),
    /// Another tag's rule.
    Tag(Rule),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    And,
    Or,
    Not,
    Equal,
    Unequal,
    In,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Like,
    Fact,
    /// What Razor's users and its own state say of a machine, neither of which there is here.
    Unknown,
    HasMac,
    HasMacLike,
    Num,
    Str,
    Upper,
    Lower,
    Tag,
}

/// Names, the fewest and the most arguments, and whether a rule can be one.
const OPERATORS: [(&[&str], Operator, usize, usize, bool); 21] = {
    use Operator::*;
    const ANY: usize = usize::MAX;
    [
        (&["and"], And, 1, ANY, true),
        (&["or"], Or, 1, ANY, true),
        (&["not"], Not, 1, 1, true),
        (&["=", "eq"], Equal, 2, 2, true),
        (&["!=", "neq"], Unequal, 2, 2, true),
        (&["in"], In, 2, ANY, true),
        (&[">", "gt"], Greater, 2, 2, true),
        (&[">=", "gte"], GreaterOrEqual, 2, 2, true),
        (&["<", "lt"], Less, 2, 2, true),
        (&["<=", "lte"], LessOrEqual, 2, 2, true),
        (&["like"], Like, 2, 2, true),
        (&["fact"], Fact, 1, 2, false),
        (&["metadata"], Unknown, 2, 2, false),
        (&["state"], Unknown, 2, 2, false),
        (&["has_macaddress"], HasMac, 1, ANY, true),
        (&["has_macaddress_like"], HasMacLike, 1, ANY, true),
        (&["num"], Num, 1, 1, false),
        (&["str"], Str, 1, 1, false),
        (&["upper"], Upper, 1, 1, false),
        (&["lower"], Lower, 1, 1, false),
        (&["tag"], Tag, 1, 1, true),
    ]
};

impl RazorRule {
    /// Reads a rule. `tags` has the rules of the tags that it may name.
    pub fn parse<'a>(source: &str, tags: impl Fn(&str) -> Option<&'a Rule>) -> Result<Self, RuleError> {
        if source.len() > MAX_BYTES {
            return Err(RuleError::Problem(format!("it has {} bytes, at most {MAX_BYTES}", source.len())));
        }
        let json: Value = serde_json::from_str(source)
            .map_err(|error| RuleError::Problem(format!("it is no JSON: {error}")))?;
        let mut reader = Reader { tags: &tags, deepest: 0 };
        let root = reader.call(&json, &mut Vec::new(), true)?;
        Ok(Self { source: json.to_string().into(), root: Arc::new(root), depth: reader.deepest })
    }

    /// What it says of a machine with these facts.
    pub fn holds(&self, facts: &Facts) -> Result<bool, RuleError> {
        let mut evaluation = Evaluation { facts, facter: facts.facter(), fuel: FUEL };
        Ok(is_true(&evaluation.value(&self.root)?))
    }
}

impl PartialEq for RazorRule {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Display for RazorRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

struct Reader<'t, T> {
    tags: &'t T,
    deepest: usize,
}

impl<'a, T: Fn(&str) -> Option<&'a Rule>> Reader<'_, T> {
    fn part(&mut self, json: &Value, place: &mut Vec<usize>) -> Result<Part, RuleError> {
        match json {
            Value::Array(_) => self.call(json, place, false),
            Value::Object(_) => Err(wrong(place, "an object, expected a text, a number or a rule")),
            value => Ok(Part::Value(value.clone())),
        }
    }

    fn call(&mut self, json: &Value, place: &mut Vec<usize>, is_rule: bool) -> Result<Part, RuleError> {
        let expected = "expected [OPERATOR, ARGUMENT, …]";
        let Some((name, arguments)) = json.as_array().and_then(|parts| parts.split_first()) else {
            return Err(wrong(place, &format!("{}, {expected}", shown(json))));
        };
        let known = |names: &[&str]| name.as_str().is_some_and(|name| names.contains(&name));
        let Some((_, operator, least, most, answers)) =
            OPERATORS.into_iter().find(|(names, ..)| known(names))
        else {
            place.push(0);
            return Err(wrong(place, &format!("the operator {} is not known", shown(name))));
        };
        let (name, found) = (shown(name), arguments.len());
        if is_rule && !answers {
            return Err(wrong(place, &format!("{name} says neither true nor false")));
        }
        if operator == Operator::Unknown && found == 1 {
            let problem = format!("{name} is never known here: expected a default as second argument");
            return Err(wrong(place, &problem));
        }
        if !(least..=most).contains(&found) {
            let expected =
                if most == usize::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
            return Err(wrong(place, &format!("{name} has {found} arguments, expected {expected}")));
        }
        self.reached(place.len() + 1, place)?;
        if operator == Operator::Tag {
            return self.tag(&arguments[0], place);
        }
        let mut parts = Vec::with_capacity(found);
        for (index, argument) in arguments.iter().enumerate() {
            place.push(index + 1);
            let part = self.part(argument, place)?;
            check_literal(operator, index, &part).map_err(|problem| wrong(place, &problem))?;
            parts.push(part);
            place.pop();
        }
        Ok(Part::Call(operator, parts))
    }

    fn tag(&mut self, name: &Value, place: &[usize]) -> Result<Part, RuleError> {
        let rule = name.as_str().and_then(|name| (self.tags)(name));
        let rule =
            rule.ok_or_else(|| wrong(place, &format!("there is no tag {} before this one", shown(name))))?;
        if let Rule::Razor(other) = rule {
            self.reached(place.len() + 1 + other.depth, place)?;
        }
        Ok(Part::Tag(rule.clone()))
    }

    fn reached(&mut self, depth: usize, place: &[usize]) -> Result<(), RuleError> {
        self.deepest = self.deepest.max(depth);
        match depth > MAX_DEPTH {
            true => Err(wrong(place, &format!("rules are nested more than {MAX_DEPTH} deep"))),
            false => Ok(()),
        }
    }
}

/// Patterns and names that are written out are looked at before a machine comes.
fn check_literal(operator: Operator, index: usize, part: &Part) -> Result<(), String> {
    let Part::Value(value) = part else { return Ok(()) };
    let is_pattern = matches!((operator, index), (Operator::Like, 1) | (Operator::HasMacLike, _));
    match (operator, value.as_str()) {
        (_, Some(text)) if is_pattern => pattern(text).map(drop),
        (Operator::Fact | Operator::Unknown, None) if index == 0 => Err("the name is no text".to_owned()),
        (Operator::HasMac, None) => Err(format!("{} is no text", shown(value))),
        (_, None) if is_pattern => Err(format!("{} is no pattern", shown(value))),
        _ => Ok(()),
    }
}

fn wrong(place: &[usize], problem: &str) -> RuleError {
    let place: String = place.iter().map(|index| format!("[{index}]")).collect();
    RuleError::Problem(if place.is_empty() { problem.to_owned() } else { format!("at {place}: {problem}") })
}

/// A value, no longer than a line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    // As Ruby has it: ^ and $ are those of a line.
    builder.multi_line(true).size_limit(MAX_PATTERN_BYTES).nest_limit(MAX_PATTERN_DEPTH);
    builder.build().map_err(|error| format!("the pattern {text:?} cannot be used: {error}"))
}

struct Evaluation<'a> {
    facts: &'a Facts<'a>,
    facter: &'a Facter,
    fuel: u32,
}

impl Evaluation<'_> {
    fn value(&mut self, part: &Part) -> Result<Value, RuleError> {
        self.spend(1)?;
        match part {
            Part::Value(value) => Ok(value.clone()),
            Part::Tag(Rule::Razor(rule)) => self.value(&rule.root).map(|value| is_true(&value).into()),
            Part::Tag(rule) => {
                self.spend(1000)?;
                rule.holds(self.facts).map(Value::Bool)
            }
            Part::Call(operator, parts) => {
                let values: Vec<_> =
                    parts.iter().map(|part| self.value(part)).collect::<Result<_, RuleError>>()?;
                self.called(*operator, &values)
            }
        }
    }

    fn spend(&mut self, fuel: u32) -> Result<(), RuleError> {
        let left = self.fuel.checked_sub(fuel);
        self.fuel = left.ok_or_else(|| RuleError::Problem("it takes too long".to_owned()))?;
        Ok(())
    }

    fn called(&mut self, operator: Operator, values: &[Value]) -> Result<Value, RuleError> {
        let [first, rest @ ..] = values else { return Ok(Value::Null) };
        let second = rest.first().unwrap_or(&Value::Null);
        let compared = |holds: fn(f64, f64) -> bool| {
            Ok(Value::Bool(holds(number_of(first, operator)?, number_of(second, operator)?)))
        };
        Ok(match operator {
            Operator::And => values.iter().all(is_true).into(),
            Operator::Or => values.iter().any(is_true).into(),
            Operator::Not => (!is_true(first)).into(),
            Operator::Equal => are_equal(first, second).into(),
            Operator::Unequal => (!are_equal(first, second)).into(),
            Operator::In => rest.iter().any(|value| are_equal(first, value)).into(),
            Operator::Greater => compared(|a, b| a > b)?,
            Operator::GreaterOrEqual => compared(|a, b| a >= b)?,
            Operator::Less => compared(|a, b| a < b)?,
            Operator::LessOrEqual => compared(|a, b| a <= b)?,
            Operator::Like => self.is_like(text_of(first)?, text_of(second)?)?.into(),
            Operator::Fact => self.fact(text_of(first)?, rest.first())?,
            Operator::Unknown => second.clone(),
            Operator::HasMac => self.has_mac(values)?.into(),
            Operator::HasMacLike => self.has_mac_like(values)?.into(),
            Operator::Num => number(first)?,
            Operator::Str => match first {
                Value::String(text) => text.clone().into(),
                Value::Null => "".into(),
                value => value.to_string().into(),
            },
            Operator::Upper => text_of(first)?.to_uppercase().into(),
            Operator::Lower => text_of(first)?.to_lowercase().into(),
            Operator::Tag => Value::Null,
        })
    }

    fn fact(&self, name: &str, default: Option<&Value>) -> Result<Value, RuleError> {
        let found = self.facter.get(name).or(default).cloned();
        found.ok_or_else(|| {
            RuleError::Problem(format!(
                "the machine has no fact {name:?}; [\"fact\", {name:?}, DEFAULT] does without it"
            ))
        })
    }

    fn is_like(&mut self, text: &str, like: &str) -> Result<bool, RuleError> {
        self.spend(100)?;
        if text.len() > MAX_MATCHED_BYTES {
            return Err(RuleError::Problem(format!(
                "a text of {} bytes is compared to no pattern",
                text.len()
            )));
        }
        Ok(pattern(like).map_err(RuleError::Problem)?.is_match(text))
    }

    fn macs(&self) -> impl Iterator<Item = String> + use<'_> {
        let macs = self.facter.iter().filter(|(name, _)| name.starts_with("macaddress"));
        macs.filter_map(|(_, value)| Some(value.as_str()?.to_lowercase()))
    }

    fn has_mac(&self, values: &[Value]) -> Result<bool, RuleError> {
        for value in values {
            let sought = text_of(value)?.to_lowercase().replace('-', ":");
            if self.macs().any(|mac| mac == sought) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_mac_like(&mut self, values: &[Value]) -> Result<bool, RuleError> {
        let macs: Vec<_> = self.macs().collect();
        for value in values {
            let like = text_of(value)?;
            for mac in &macs {
                if self.is_like(mac, like)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Ruby's notion: all but false and nothing.
fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

/// A text is no number; numbers are equal whatever they are written as.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn text_of(value: &Value) -> Result<&str, RuleError> {
    value.as_str().ok_or_else(|| RuleError::Problem(format!("{} is no text", shown(value))))
}

fn number_of(value: &Value, operator: Operator) -> Result<f64, RuleError> {
    let hint = format!("{operator:?} compares numbers, and {} is none; [\"num\", …] makes one", shown(value));
    value.as_f64().ok_or(RuleError::Problem(hint))
}

fn number(value: &Value) -> Result<Value, RuleError> {
    let parsed = || {
        let text = value.as_str()?.trim();
        text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from)).ok()
    };
    let number = if value.is_number() { Some(value.clone()) } else { parsed().filter(Value::is_number) };
    number.ok_or_else(|| RuleError::Problem(format!("{} is no number", shown(value))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn razor() -> Value {
        json!({"mac": "52:54:00:a1:9c:ae", "facter": {
            "processorcount": "8", "memorysize_mb": "7987.25", "macaddress": "52:54:00:A1:9C:AE",
            "macaddress_eth1": "52:54:00:a1:9c:af", "manufacturer": "Dell Inc.", "is_virtual": false, "count": 8.0,
        }})
    }

    fn read(rule: &Value) -> Result<RazorRule, RuleError> {
        let cores = Rule::expression("cpu.threads >= 4").unwrap();
        let nested = RazorRule::parse(r#"["tag", "cores"]"#, |_| Some(&cores)).map(Rule::Razor)?;
        RazorRule::parse(&rule.to_string(), |name| match name {
            "cores" => Some(&cores),
            "nested" => Some(&nested),
            _ => None,
        })
    }

    fn ask(rule: Value, machine: &Value) -> Result<bool, String> {
        read(&rule).unwrap().holds(&machine.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn rules_say_what_razor_says() {
        for (rule, expected) in [
            (
                json!([
                    "and",
                    ["=", ["fact", "processorcount", "0"], "8"],
                    ["has_macaddress", "52-54-00-a1-9c-ae"]
                ]),
                true,
            ),
            (json!(["=", ["fact", "processorcount"], 8]), false),
            (json!(["eq", ["num", ["fact", "processorcount"]], 8]), true),
            (json!(["=", ["fact", "count"], 8]), true),
            (json!(["!=", ["fact", "nosuch", "x"], "x"]), false),
            (json!(["neq", ["metadata", "rack", null], "x"]), true),
            (json!([">=", ["num", ["fact", "memorysize_mb"]], 7987.25]), true),
            (json!(["gt", ["num", ["fact", "memorysize_mb"]], 7987.25]), false),
            (json!(["<", 1, 2]), true),
            (json!(["lte", 2, 1]), false),
            (json!(["in", ["fact", "macaddress_eth1"], "a", "52:54:00:a1:9c:af"]), true),
            (json!(["like", ["fact", "manufacturer"], "^Dell\\b"]), true),
            (json!(["like", ["lower", ["fact", "manufacturer"]], "Dell"]), false),
            (json!(["=", ["upper", ["fact", "manufacturer"]], "DELL INC."]), true),
            (json!(["=", ["str", ["fact", "is_virtual"]], "false"]), true),
            (json!(["not", ["or", ["fact", "is_virtual"], false, null]]), true),
            (json!(["has_macaddress_like", "^52:54:00:a1:9c:a[f]$"]), true),
            (json!(["has_macaddress_like", "^00"]), false),
        ] {
            assert_eq!(ask(rule.clone(), &razor()), Ok(expected), "{rule}");
        }
    }

    #[test]
    fn the_same_rules_hold_for_machines_of_our_own_discovery_and_may_name_tags() {
        let ours = json!({"mac": "52:54:00:a1:9c:ae", "cpu": {"threads": 8}, "firmware": {"kind": "uefi"}});
        assert_eq!(ask(json!(["=", ["fact", "processorcount"], "8"]), &ours), Ok(true));
        assert_eq!(ask(json!(["has_macaddress", "52:54:00:A1:9C:AE"]), &ours), Ok(true));
        assert_eq!(ask(json!(["and", ["tag", "cores"], ["tag", "nested"]]), &ours), Ok(true));
        let error = ask(json!(["tag", "nested"]), &razor()).unwrap_err();
        assert!(error.contains("`cpu`"), "{error}");
    }

    #[test]
    fn what_a_machine_has_not_said_is_an_error_wherever_it_stands() {
        for (rule, part) in [
            (json!(["or", true, ["=", ["fact", "nosuch"], "8"]]), "no fact \"nosuch\""),
            (json!([">", ["fact", "processorcount"], 4]), "\"8\" is none"),
            (json!(["=", ["num", ["fact", "manufacturer"]], 1]), "\"Dell Inc.\" is no number"),
            (json!(["like", ["fact", "is_virtual"], "x"]), "false is no text"),
            (json!(["like", "x", ["fact", "manufacturer", "("]]), ""),
        ] {
            let answer = ask(rule.clone(), &razor());
            match part {
                "" => assert_eq!(answer, Ok(false), "{rule}"),
                _ => assert!(answer.as_ref().is_err_and(|error| error.contains(part)), "{rule}: {answer:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_rule_is_refused_with_its_place() {
        let mut deep = json!(true);
        (0..40).for_each(|_| deep = json!(["not", deep]));
        for (rule, parts) in [
            (json!(["and", ["=", "a", "a"], ["matches", "x"]]), ["at [2][0]:", "\"matches\" is not known"]),
            (json!(["not", true, false]), ["not", "has 2 arguments, expected 1 to 1"]),
            (json!(["and", ["in", "a"]]), ["at [1]:", "at least 2"]),
            (json!(["fact", "x"]), ["fact", "neither true nor false"]),
            (json!(["=", ["metadata", "rack"], "a"]), ["at [1]:", "expected a default"]),
            (json!(["and", ["like", "a", "("]]), ["at [1][2]:", "cannot be used"]),
            (json!(["tag", "later"]), ["\"later\"", "before this one"]),
            (json!(["and", {"a": 1}]), ["at [1]:", "an object"]),
            (json!(["and", []]), ["at [1]:", "[OPERATOR"]),
            (json!("x"), ["\"x\"", "[OPERATOR"]),
            (json!(["=", ["fact", 7], 7]), ["at [1][1]:", "no text"]),
            (deep, ["nested", "32 deep"]),
        ] {
            let error = read(&rule).unwrap_err().to_string();
            parts.iter().for_each(|part| assert!(error.contains(part), "{part} in {error}"));
        }
        assert!(RazorRule::parse("[", |_| None).unwrap_err().to_string().contains("no JSON"));
    }

    #[test]
    fn an_evaluation_is_bounded() {
        let mut rules: Vec<Rule> = Vec::new();
        for level in 0..6 {
            let parts = match level {
                0 => vec![json!(["not", true]); 30],
                _ => vec![json!(["tag", "below"]); 30],
            };
            let rule: Vec<_> = [json!("or")].into_iter().chain(parts).collect();
            let below = rules.last().cloned();
            let rule = RazorRule::parse(&json!(rule).to_string(), |_| below.as_ref()).unwrap();
            rules.push(Rule::Razor(rule));
        }
        let error = rules[5].holds(&(&razor()).into()).unwrap_err();
        assert_eq!(error.to_string(), "it takes too long");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let names = OPERATORS.iter().flat_map(|(names, ..)| names.iter().copied()).collect::<Vec<_>>();
        let leaf = prop_oneof![
            proptest::sample::select(names).prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            proptest::sample::select(vec!["processorcount", "manufacturer", "cores"]).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Value::from))
    }

    proptest! {
        #[test]
        fn any_rule_is_answered_or_refused(json in any_json(), text in "\\PC{0,40}") {
            let _ = RazorRule::parse(&text, |_| None);
            if let Ok(rule) = read(&json) {
                prop_assert_eq!(&read(&serde_json::from_str(&rule.to_string()).unwrap()).unwrap(), &rule);
                let _ = rule.holds(&(&razor()).into());
            }
        }
    }
}
