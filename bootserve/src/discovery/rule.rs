//! Rules of tags: whether a machine has a tag, by what it has said about itself.
//!
//! A rule sees the machine's facts as JSON and nothing else, is strict about facts that are missing, and its time and memory are
//! bounded. Expressions are those of the templates of overlays ([`crate::overlay`]); Razor's rules are in [`crate::compat::razor::rule`].

use std::cell::OnceCell;
use std::fmt;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::{Serialize, Serializer};

use crate::compat::razor::facts::{Facter, facters};
use crate::compat::razor::rule::RazorRule;

/// What a rule can spend: about so many steps, or 64 times as many bytes. A look at each of 256 PCI devices takes a tenth.
const FUEL: u64 = 100_000;
/// A longer rule is a mistake.
const MAX_BYTES: usize = 4096;
/// Nested deeper, a rule would take more stack to read than threads have.
const MAX_BRACKETS: usize = 64;

/// Where the facts of Razor's microkernel are, as it said them.
pub const FACTER: &str = "facter";

/// The facts that a rule can look at: `docs/discovery.md`, and what is known of the machine besides.
pub const FACTS: [&str; 20] = [
    "mac",
    "node",
    "boot",
    "uuid",
    "system",
    "board",
    "chassis",
    "firmware",
    "architecture",
    "kernel",
    "cpu",
    "memory_bytes",
    "memory_modules",
    "numa_nodes",
    "interfaces",
    "disks",
    "pci_devices",
    "bmc",
    "port",
    "lldp",
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// Whether a machine has a tag.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// By an expression: `cpu.cores >= 32 and "Dell" in system.manufacturer`.
    Expression(Expression),
    /// By a rule of Razor's, over facter's facts: `["=", ["fact", "processorcount"], "8"]`.
    Razor(RazorRule),
}

/// An expression over the facts of a machine.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    compiled: Arc<minijinja::Expression<'static, 'static>>,
}

/// A rule that cannot be read, or that says nothing of a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A fact is missing.
    #[error("the machine has not said `{0}`; `{0} | default(…)` does without it")]
    Missing(String),
    /// There is no such fact.
    #[error("there is no fact `{0}`\nhint: docs/discovery.md lists them: {facts}", facts = FACTS.join(", "))]
    NoFact(String),
    /// It comes to something else than true or false.
    #[error("it comes to {0}, expected true or false")]
    NoAnswer(String),
    /// Anything else.
    #[error("{0}")]
    Problem(String),
}

impl Serialize for RuleError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Rule {
    /// A rule by an expression over the facts of `docs/discovery.md`.
    pub fn expression(source: &str) -> Result<Self, RuleError> {
        let expression = Expression::compile(source)?;
        if let Some(name) = expression.unknown_fact() {
            return Err(RuleError::NoFact(name));
        }
        expression.try_out()?;
        Ok(Self::Expression(expression))
    }

    /// What it says of a machine with these facts.
    pub fn holds(&self, facts: &Facts) -> Result<bool, RuleError> {
        match self {
            Self::Expression(expression) => expression.holds(facts),
            Self::Razor(rule) => rule.holds(facts),
        }
    }
}

/// Facts in the form in which rules look at them.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    value: Value,
    json: &'a serde_json::Value,
    facter: OnceCell<Facter>,
}

impl<'a> From<&'a serde_json::Value> for Facts<'a> {
    fn from(json: &'a serde_json::Value) -> Self {
        Self { value: Value::from(Serde(json)), json, facter: OnceCell::new() }
    }
}

impl Facts<'_> {
    /// What facter has said of the machine, or would say of it; most rules do not ask.
    pub fn facter(&self) -> &Facter {
        let raw = || self.json.get(FACTER).and_then(serde_json::Value::as_object).cloned();
        self.facter.get_or_init(|| raw().unwrap_or_else(|| facters(self.json)))
    }
}

impl Expression {
    fn compile(source: &str) -> Result<Self, RuleError> {
        if source.len() > MAX_BYTES {
            return Err(RuleError::Problem(format!("it has {} bytes, at most {MAX_BYTES}", source.len())));
        }
        if source.bytes().filter(|byte| b"([{".contains(byte)).count() > MAX_BRACKETS {
            return Err(RuleError::Problem(format!("it has more than {MAX_BRACKETS} brackets")));
        }
        let environment: &'static Environment<'static> = &ENVIRONMENT;
        let compiled = environment.compile_expression_owned(source.to_owned());
        let compiled = compiled.map_err(|error| problem(&error, source))?;
        Ok(Self { source: source.into(), compiled: Arc::new(compiled) })
    }

    /// The first of its names that is no fact's.
    fn unknown_fact(&self) -> Option<String> {
        let names = self.compiled.undeclared_variables(false);
        let is_known = |name: &str| FACTS.contains(&name) || FUNCTIONS.contains(&name);
        names.into_iter().filter(|name| !is_known(name)).min()
    }

    /// Filters and tests are looked for when they are needed: most of them are on a machine that has said nothing.
    fn try_out(&self) -> Result<(), RuleError> {
        use ErrorKind::{UnknownFilter, UnknownFunction, UnknownMethod, UnknownTest};
        match self.compiled.eval(Value::from(Serde(&example()))) {
            Err(error)
                if matches!(error.kind(), UnknownFilter | UnknownFunction | UnknownMethod | UnknownTest) =>
            {
                Err(problem(&error, &self.source))
            }
            _ => Ok(()),
        }
    }

    fn holds(&self, facts: &Facts) -> Result<bool, RuleError> {
        let value = self.compiled.eval(facts.value.clone()).map_err(|error| problem(&error, &self.source))?;
        match value.kind() {
            ValueKind::Bool => Ok(value.is_true()),
            ValueKind::Undefined => Err(RuleError::Missing(self.source.trim().to_owned())),
            kind => Err(RuleError::NoAnswer(format!("a {kind}"))),
        }
    }
}

/// What an expression can call by name.
const FUNCTIONS: [&str; 4] = ["range", "dict", "namespace", "debug"];

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(true);
    environment.set_fuel(Some(FUEL));
    environment
}

/// A machine with a value for whatever rules commonly look at.
fn example() -> serde_json::Value {
    let text = "text";
    let product = serde_json::json!({
        "manufacturer": text, "product": text, "version": text, "serial": text, "asset_tag": text,
    });
    serde_json::json!({
        "mac": text, "node": text, "boot": text, "uuid": text,
        "system": product, "board": product, "chassis": product,
        "firmware": {"kind": text, "vendor": text, "version": text, "date": text},
        "architecture": text, "kernel": text,
        "cpu": {"model": text, "sockets": 1, "cores": 1, "threads": 1},
        "memory_bytes": 1, "memory_modules": [], "numa_nodes": [],
        "interfaces": [], "disks": [], "pci_devices": [],
        "bmc": {"interface": text, "ipmi": text},
        "port": {"circuit_id": text, "remote_id": text},
        "lldp": {"chassis_id": text, "port_id": text, "system_name": text, "port_description": text},
    })
}

fn problem(error: &Error, source: &str) -> RuleError {
    let expression = error.range().and_then(|range| source.get(range)).map(str::trim);
    match (error.kind(), error.detail(), expression) {
        (ErrorKind::UndefinedError, detail, expression) => {
            // The detail names the fact alone: `system.serial` is undefined.
            let named = detail.and_then(|detail| detail.split('`').nth(1));
            RuleError::Missing(named.or(expression).unwrap_or(source).to_owned())
        }
        (ErrorKind::OutOfFuel, ..) => RuleError::Problem("it takes too long, or too much memory".to_owned()),
        (kind, Some(detail), _) => RuleError::Problem(format!("{kind}: {detail}")),
        (kind, None, Some(expression)) => RuleError::Problem(format!("`{expression}`: {kind}")),
        (kind, None, None) => RuleError::Problem(kind.to_string()),
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expression(expression) => f.write_str(&expression.source),
            Self::Razor(rule) => rule.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn dell() -> Json {
        json!({
            "mac": "02:00:00:00:00:01",
            "system": {"manufacturer": "Dell Inc.", "product": "R640"},
            "cpu": {"sockets": 2, "cores": 40, "threads": 80},
            "disks": [{"name": "sda", "size_bytes": 480, "rotational": false}, {"name": "sdb", "rotational": true}],
        })
    }

    fn ask(rule: &str, facts: &Json) -> Result<bool, RuleError> {
        Rule::expression(rule).unwrap_or_else(|error| panic!("{rule}: {error}")).holds(&facts.into())
    }

    #[test]
    fn a_rule_looks_at_the_facts() {
        let check = |rule: &str, expected: bool| assert_eq!(ask(rule, &dell()), Ok(expected), "{rule}");
        check(r#"cpu.cores >= 32 and "Dell" in system.manufacturer"#, true);
        check("cpu.cores > 40", false);
        check("system.product == 'R640' or system.product == 'R650'", true);
        check("system.serial is defined", false);
        check("system.serial | default('none') == 'none'", true);
        check("disks | selectattr('rotational') | list | length == 1", true);
        check("mac is startingwith('02:00:')", true);
        check("not (cpu.sockets == 1)", true);
    }

    #[test]
    fn a_fact_that_is_missing_is_named() {
        for (rule, fact) in [
            ("system.serial == 'x'", "system.serial"),
            ("'x' in system.serial", "system.serial"),
            ("bmc.ipmi == '2.0'", "bmc"),
            ("system.serial", "system.serial"),
            ("not system.serial", "system.serial"),
            ("cpu.cores > 99 or memory_bytes > 7", "memory_bytes"),
        ] {
            assert_eq!(ask(rule, &dell()), Err(RuleError::Missing(fact.to_owned())), "{rule}");
        }
        assert_eq!(ask("cpu.cores > 9 or memory_bytes > 7", &dell()), Ok(true), "nobody asked for it");
    }

    #[test]
    fn what_is_neither_true_nor_false_is_no_answer() {
        for rule in ["cpu.cores", "'Dell'", "disks"] {
            assert!(matches!(ask(rule, &dell()), Err(RuleError::NoAnswer(_))), "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_before_any_machine_asks() {
        for (rule, expected) in [
            ("cpu.cores >=", "syntax error"),
            ("", "syntax error"),
            ("cpus.cores > 1", "there is no fact `cpus`"),
            ("cpu.cores | nosuch > 1", "nosuch"),
            ("system.serial is nosuch", "nosuch"),
            ("{{ cpu.cores }}", "syntax error"),
        ] {
            let error = Rule::expression(rule).unwrap_err().to_string();
            assert!(error.contains(expected), "{rule}: {error}");
        }
        assert!(Rule::expression(&"(".repeat(4000)).is_err());
        assert!(Rule::expression(&" ".repeat(5000)).is_err());
    }

    #[test]
    fn a_rule_that_takes_too_long_is_ended() {
        for rule in [
            "range(99999) | map('upper') | list | length > range(99999) | list | length",
            "('x' * 99000000) == 'y'",
            "range(20000) | product(range(20000)) | list | length == 1",
        ] {
            let Ok(rule) = Rule::expression(rule) else { continue };
            assert!(rule.holds(&(&dell()).into()).is_err(), "{rule}");
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            "\\PC{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof![Just("cores".to_owned()), Just("manufacturer".to_owned()), "[a-z]{1,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::hash_map(key, inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_facts_make_a_rule_panic(system in any_json(), cpu in any_json(), disks in any_json()) {
            let json = json!({"system": system, "cpu": cpu, "disks": disks});
            let facts = Facts::from(&json);
            for rule in [
                "cpu.cores >= 32 and 'Dell' in system.manufacturer",
                "disks | selectattr('rotational') | map(attribute='size_bytes') | sum > 100",
                "(cpu.cores * 1000000 + cpu[0]) / cpu.threads > 2",
                "system | upper == disks | join(',') | lower",
                "disks | sort | first == cpu | dictsort | last",
            ] {
                let _ = Rule::expression(rule).unwrap().holds(&facts);
            }
        }

        #[test]
        fn any_text_is_a_rule_or_is_refused(
            text in "\\PC{0,40}|((cpu|system|disks|==|and|not|in|is|[0-9.'()|\\[\\]*+-]|defined|map|list) ?){0,12}"
        ) {
            if let Ok(rule) = Rule::expression(&text) {
                let _ = rule.holds(&Facts::from(&dell()));
            }
        }
    }
}
