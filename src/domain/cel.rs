//! Conditions of policy: CEL expressions over a closed list of facts, checked when they are loaded so that evaluating them is cheap and small.
//!
//! True here: a condition that loaded is shallow, has no loop inside a loop, and uses only the variables and functions listed below.
//! A result that is not a truth value is an error; an error never counts as `false` (the judge refuses then, decisions.md 7).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use cel::parser::Expression;
use cel::{Context, Env, ExecutionError, Program, Value};
use jiff::civil::DateTime;
use serde::Serialize;

use super::person::Person;
use super::target::Target;
use super::text::shown;

/// The most bytes that a condition may have.
pub const MAX_CONDITION_BYTES: usize = 1024;
/// The deepest tree that a condition may have once it is parsed.
///
/// INVARIANT: evaluation recurses once a level. At this depth it fits into a quarter of a tokio worker's 2 MiB stack even in a debug
/// build, as the test `the_deepest_condition_fits_a_small_stack` shows, so that no condition can abort the process.
const MAX_DEPTH: usize = 24;
/// The stack on which an expression is parsed, before its depth is known; 1024 terms pass on it in a debug build.
const PARSE_STACK_BYTES: usize = 64 << 20;
/// What `requester.signed_in_s` is when nobody signed in: so long ago that no condition takes it for fresh, and far from overflow.
const NEVER_SIGNED_IN_S: i64 = 1 << 53;

/// The variables, and the fields of those that have some.
const VARIABLES: &[(&str, &[&str])] = &[
    ("requester", &["name", "groups", "kind", "signed_in_s"]),
    ("target", &["name", "kind", "labels"]),
    ("now", &["weekday", "hour", "minute", "date"]),
    ("role", &[]),
    ("for_s", &[]),
    ("ticket", &[]),
];
/// Operators that give a truth value, and operators and functions that give something else.
const TESTS: &[&str] = &[
    "_&&_",
    "_||_",
    "!_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "@in",
    "@not_strictly_false",
    "contains",
    "startsWith",
    "endsWith",
];
const OTHERS: &[&str] = &["_?_:_", "_-_", "_+_", "_*_", "_/_", "_%_", "-_", "_[_]", "size"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A CEL expression that may be evaluated.
#[derive(Clone)]
pub struct Condition {
    source: Arc<str>,
    program: Arc<Program>,
}

/// What a condition is evaluated over.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Who asks.
    pub person: &'a Person,
    /// Seconds since their last signed sign-in; `None` is never.
    pub signed_in_s: Option<u64>,
    /// For what.
    pub target: &'a Target,
    /// In which role.
    pub role: &'a str,
    /// For how long, in seconds.
    pub for_s: u64,
    /// The ticket, empty where there is none.
    pub ticket: &'a str,
    /// The date and the time of day in the policy's time zone.
    pub now: DateTime,
}

#[derive(Serialize)]
struct Requester<'a> {
    name: &'a str,
    groups: Vec<&'a str>,
    kind: &'a str,
    signed_in_s: i64,
}

#[derive(Serialize)]
struct Goal<'a> {
    name: &'a str,
    kind: &'a str,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Moment<'a> {
    weekday: &'a str,
    hour: i64,
    minute: i64,
    date: String,
}

impl Condition {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// Every reason why it is not taken, each a clause without a full stop.
    pub fn compile(source: &str) -> Result<Self, Vec<String>> {
        if source.len() > MAX_CONDITION_BYTES {
            return Err(vec![format!(
                "the condition has {} bytes; at most {MAX_CONDITION_BYTES} are taken",
                source.len()
            )]);
        }
        // SECURITY: parser, walk and drop of a hostile expression recurse before its depth is known, and a stack that
        // overflows aborts the process. The thread is joined here: nothing runs beside the caller.
        std::thread::scope(|scope| {
            let parse =
                std::thread::Builder::new().stack_size(PARSE_STACK_BYTES).spawn_scoped(scope, || compile_here(source));
            match parse.map(|thread| thread.join()) {
                Ok(Ok(result)) => result,
                _ => Err(vec!["the condition could not be parsed".to_owned()]),
            }
        })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True exactly when the expression is `true` of the facts.
    ///
    /// # Errors
    /// What went wrong, as one printable line: a missing label, types that do not compare, overflow, a result that is no truth value.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, String> {
        match self.program.execute(&bind(facts)?) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("the result is neither true nor false".to_owned()),
            Err(error) => Err(one_line(&error)),
        }
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Condition {}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Condition({:?})", self.source)
    }
}

fn compile_here(source: &str) -> Result<Condition, Vec<String>> {
    let program =
        ENV.compile(source).map_err(|errors| vec![format!("the condition does not parse: {}", one_line(&errors))])?;
    let mut walk = Walk { wrong: Vec::new(), bound: Vec::new() };
    walk.expression(program.expression(), 1, Loop::Outside);
    if walk.wrong.is_empty() && !truth_value(program.expression()) {
        walk.wrong.push("a condition must be something that is true or false, such as a comparison".to_owned());
    }
    if walk.wrong.is_empty() {
        walk.wrong.extend(mistyped(&program));
    }
    if walk.wrong.is_empty() {
        return Ok(Condition { source: source.into(), program: Arc::new(program) });
    }
    walk.wrong.dedup();
    Err(walk.wrong)
}

/// Whether the walk is inside a comprehension.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loop {
    Outside,
    Inside,
}

/// Looks at every node of a parsed expression.
struct Walk {
    wrong: Vec<String>,
    /// Variables that the comprehension around binds.
    bound: Vec<String>,
}

impl Walk {
    fn expression(&mut self, expression: &Expression, depth: usize, within: Loop) {
        if depth > MAX_DEPTH {
            let wrong = format!("the condition is nested more than {MAX_DEPTH} levels deep");
            if !self.wrong.contains(&wrong) {
                self.wrong.push(wrong);
            }
            return;
        }
        match &expression.expr {
            Expr::Literal(_) => {}
            Expr::List(list) => self.all(&list.elements, depth, within),
            Expr::Map(map) => {
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(pair) => self.all([&pair.key, &pair.value], depth, within),
                        EntryExpr::StructField(field) => self.all([&field.value], depth, within),
                    }
                }
            }
            Expr::Call(call) => {
                self.all(call.target.as_deref(), depth, within);
                self.all(&call.args, depth, within);
                self.function(&call.func_name);
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(root) if !self.bound.contains(root) => self.field(root, &select.field),
                _ => self.all([&*select.operand], depth, within),
            },
            Expr::Ident(name) => self.name(name),
            Expr::Comprehension(each) => self.comprehension(each, depth, within),
            Expr::Struct(_) | Expr::Unspecified => self.wrong.push("messages are not taken".to_owned()),
        }
    }

    fn all<'e>(&mut self, inner: impl IntoIterator<Item = &'e Expression>, depth: usize, within: Loop) {
        for expression in inner {
            self.expression(expression, depth + 1, within);
        }
    }

    fn comprehension(&mut self, each: &ComprehensionExpr, depth: usize, within: Loop) {
        // SECURITY: three nested loops over a thousand items never end, and there is no limit on cost; one loop over a few groups is cheap.
        if within == Loop::Inside || contains_loop(&each.iter_range) {
            self.wrong.push("all, exists, exists_one, map and filter cannot be nested".to_owned());
            return;
        }
        self.all([&each.iter_range], depth, within);
        if VARIABLES.iter().any(|(name, _)| *name == each.iter_var) {
            self.wrong.push(format!("{} is a variable already and cannot be bound again", each.iter_var));
        }
        self.bound.push(each.iter_var.clone());
        self.bound.extend(each.iter_var2.clone());
        self.all([&each.accu_init, &each.loop_cond, &each.loop_step, &each.result], depth, Loop::Inside);
        self.bound.clear();
    }

    fn function(&mut self, name: &str) {
        if !TESTS.contains(&name) && !OTHERS.contains(&name) {
            self.wrong
                .push(format!("the function {} is not one of size, contains, startsWith, endsWith, has", shown(name)));
        }
    }

    fn name(&mut self, name: &str) {
        if name.starts_with('@') || self.bound.iter().any(|bound| bound == name) {
            return;
        }
        match VARIABLES.iter().find(|(known, _)| *known == name) {
            Some((_, [])) => {}
            Some((_, fields)) => self.wrong.push(format!("{name} alone is no value; it has {}", list(name, fields))),
            None => self.unknown(name),
        }
    }

    fn field(&mut self, root: &str, field: &str) {
        match VARIABLES.iter().find(|(known, _)| *known == root) {
            Some((_, [])) => self.wrong.push(format!("{root} has no fields")),
            Some((_, fields)) if fields.contains(&field) => {}
            Some((_, fields)) => {
                self.wrong.push(format!("{root} has no field {}; it has {}", shown(field), list(root, fields)));
            }
            None => self.unknown(root),
        }
    }

    fn unknown(&mut self, name: &str) {
        if name == "history" {
            self.wrong.push("history.* is not in this version".to_owned());
        } else {
            let known: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
            self.wrong.push(format!("{} is not one of the variables {}", shown(name), known.join(", ")));
        }
    }
}

fn list(root: &str, fields: &[&str]) -> String {
    fields.iter().map(|field| format!("{root}.{field}")).collect::<Vec<_>>().join(", ")
}

/// True when a comprehension stands anywhere in what another one would range over.
fn contains_loop(expression: &Expression) -> bool {
    match &expression.expr {
        Expr::Comprehension(_) => true,
        Expr::Call(call) => call.target.iter().any(|t| contains_loop(t)) || call.args.iter().any(contains_loop),
        Expr::Select(select) => contains_loop(&select.operand),
        Expr::List(list) => list.elements.iter().any(contains_loop),
        // A literal map in a range is odd enough to be counted as a loop.
        Expr::Map(_) | Expr::Struct(_) => true,
        Expr::Literal(_) | Expr::Ident(_) | Expr::Unspecified => false,
    }
}

/// True when the expression can only give a truth value.
fn truth_value(expression: &Expression) -> bool {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => true,
        Expr::Select(select) => select.test,
        Expr::Call(call) if call.func_name == "_?_:_" => call.args.iter().skip(1).all(truth_value),
        Expr::Call(call) => TESTS.contains(&call.func_name.as_str()),
        Expr::Comprehension(all) => truth_value(&all.accu_init) || truth_value(&all.result),
        _ => false,
    }
}

/// Evaluates once over made-up facts: their types are those of all facts, so operands that do not fit are known now.
fn mistyped(program: &Program) -> Option<String> {
    let mut context = Context::with_env(Arc::clone(&ENV));
    let requester = Requester { name: "a", groups: vec!["a"], kind: "person", signed_in_s: 0 };
    let target = Goal { name: "a", kind: "ssh", labels: &BTreeMap::new() };
    let now = Moment { weekday: "mon", hour: 1, minute: 1, date: "2026-01-01".to_owned() };
    context.add_variable("requester", requester).ok()?;
    context.add_variable("target", target).ok()?;
    context.add_variable("now", now).ok()?;
    context.add_variable("role", "a").ok()?;
    context.add_variable("ticket", "a").ok()?;
    context.add_variable("for_s", 60i64).ok()?;
    match program.execute(&context) {
        Err(
            error @ (ExecutionError::NoSuchOverload(_)
            | ExecutionError::ValuesNotComparable(..)
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::InvalidArgumentCount { .. }
            | ExecutionError::UndeclaredReference(_)),
        ) => Some(format!("the types do not fit: {}", one_line(&error))),
        _ => None,
    }
}

fn bind(facts: &Facts<'_>) -> Result<Context<'static, 'static>, String> {
    let mut context = Context::with_env(Arc::clone(&ENV));
    let requester = Requester {
        name: facts.person.name.as_str(),
        groups: facts.person.groups.iter().map(|g| g.as_str()).collect(),
        kind: facts.person.kind.word(),
        signed_in_s: facts
            .signed_in_s
            .and_then(|s| i64::try_from(s).ok())
            .unwrap_or(NEVER_SIGNED_IN_S)
            .min(NEVER_SIGNED_IN_S),
    };
    let target =
        Goal { name: facts.target.name.as_str(), kind: facts.target.kind.word(), labels: &facts.target.labels };
    let now = Moment {
        weekday: weekday(facts.now),
        hour: facts.now.hour().into(),
        minute: facts.now.minute().into(),
        date: facts.now.date().to_string(),
    };
    context.add_variable("requester", requester).map_err(|e| one_line(&e))?;
    context.add_variable("target", target).map_err(|e| one_line(&e))?;
    context.add_variable("now", now).map_err(|e| one_line(&e))?;
    context.add_variable("role", facts.role).map_err(|e| one_line(&e))?;
    context.add_variable("ticket", facts.ticket).map_err(|e| one_line(&e))?;
    context.add_variable("for_s", i64::try_from(facts.for_s).unwrap_or(i64::MAX)).map_err(|e| one_line(&e))?;
    Ok(context)
}

fn weekday(now: DateTime) -> &'static str {
    use jiff::civil::Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
    match now.weekday() {
        Monday => "mon",
        Tuesday => "tue",
        Wednesday => "wed",
        Thursday => "thu",
        Friday => "fri",
        Saturday => "sat",
        Sunday => "sun",
    }
}

fn one_line(error: &impl std::fmt::Display) -> String {
    let text: String = error.to_string().lines().map(str::trim).filter(|l| !l.is_empty()).take(1).collect();
    shown(&text.chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests;
