//! Which overload a call means: chapter 10 of Postgres' documentation, in the order of its rules.

use storage::SqlType;
use streaming::expr::EvalError;

use super::{Definition, Function, Param, candidates, instantiate};
use crate::types::{self, CastContext, cast_context, error, name};

/// A chosen overload.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The function.
    pub function: Function,
    /// The type that each argument must be cast to first; equal to its own where nothing is to do.
    pub casts: Vec<SqlType>,
}

/// Finds the function of that name for these argument types; [`SqlType::Unknown`] is an untyped literal.
pub fn resolve(function: &str, args: &[SqlType]) -> Result<Resolved, EvalError> {
    let call = || format!("{function}({})", args.iter().map(name).collect::<Vec<_>>().join(", "));
    choose(candidates(function), args, false).map_err(|failure| match failure {
        Failure::None => error("42883", format!("function {} does not exist", call())),
        Failure::Ambiguous => error("42725", format!("function {} is not unique", call())),
        Failure::Other(error) => error,
    })
}

/// Finds the operator of that name for one (prefix) or two operand types.
pub fn resolve_operator(operator: &str, args: &[SqlType]) -> Result<Resolved, EvalError> {
    let call = || match args {
        [operand] => format!("{operator} {}", name(operand)),
        [left, right] => format!("{} {operator} {}", name(left), name(right)),
        _ => operator.to_string(),
    };
    choose(candidates(operator), args, true).map_err(|failure| match failure {
        Failure::None => error("42883", format!("operator does not exist: {}", call())),
        Failure::Ambiguous => error("42725", format!("operator is not unique: {}", call())),
        Failure::Other(error) => error,
    })
}

enum Failure {
    None,
    Ambiguous,
    Other(EvalError),
}

/// A definition with one parameter per argument of the call.
struct Candidate {
    definition: &'static Definition,
    params: Vec<Param>,
}

impl Candidate {
    /// The declared type of a parameter, if it is not polymorphic.
    fn ty(&self, i: usize) -> Option<&SqlType> {
        match &self.params[i] {
            Param::Type(ty) => Some(ty),
            _ => None,
        }
    }

    fn exact(&self, i: usize, arg: &SqlType) -> bool {
        self.ty(i) == Some(arg)
    }

    fn accepts(&self, args: &[SqlType]) -> bool {
        self.params.iter().zip(args).all(|(param, arg)| match (param, arg) {
            (_, SqlType::Unknown) => true,
            (Param::Type(ty), arg) => implicit(arg, ty),
            (Param::AnyArray, arg) => matches!(arg, SqlType::Array(_)),
            (Param::AnyNonArray, arg) => !matches!(arg, SqlType::Array(_)),
            (Param::AnyElement | Param::Any, _) => true,
        }) && self.elements(args).is_some()
    }

    /// The one type of the elements, if the arguments agree on it: `Some(None)` if none says it.
    fn elements(&self, args: &[SqlType]) -> Option<Option<SqlType>> {
        // These take no two types that are only compatible.
        let strict = matches!(self.definition.name, "@>" | "<@" | "&&");
        let mut element: Option<SqlType> = None;
        for (param, arg) in self.params.iter().zip(args) {
            let seen = match (param, arg) {
                (_, SqlType::Unknown) => continue,
                (Param::AnyElement, arg) => arg.clone(),
                (Param::AnyArray, SqlType::Array(item)) => item.as_ref().clone(),
                _ => continue,
            };
            element = Some(match element {
                None => seen,
                Some(earlier) if strict && earlier != seen => return None,
                Some(earlier) => common_type(&[earlier, seen])?,
            });
        }
        Some(element)
    }
}

fn implicit(from: &SqlType, to: &SqlType) -> bool {
    cast_context(from, to) == Some(CastContext::Implicit)
}

/// One choice of the parameters for so many arguments.
fn expand(definition: &'static Definition, n: usize) -> Option<Candidate> {
    let mut params = definition.params.clone();
    if definition.variadic {
        let last = params.pop()?;
        if n < params.len() + 1 {
            // Only "any" may be repeated no times at all, and only where Postgres declares that too.
            return (n == params.len() && definition.returns != Param::AnyArray)
                .then_some(Candidate { definition, params });
        }
        params.resize(n, last);
    }
    (params.len() == n).then_some(Candidate { definition, params })
}

fn choose(definitions: Vec<&'static Definition>, args: &[SqlType], operator: bool) -> Result<Resolved, Failure> {
    let unknown = |i: usize| args[i] == SqlType::Unknown;
    let mut left: Vec<Candidate> = definitions.into_iter().filter_map(|d| expand(d, args.len())).collect();
    // An operator takes an untyped operand for the type of the other one, if that is a perfect match.
    let mut wanted = args.to_vec();
    if let (true, [a, b]) = (operator, args) {
        if *a == SqlType::Unknown {
            wanted[0] = b.clone();
        } else if *b == SqlType::Unknown {
            wanted[1] = a.clone();
        }
    }
    let perfect = |c: &Candidate| {
        !wanted.contains(&SqlType::Unknown) && wanted.iter().enumerate().all(|(i, arg)| c.exact(i, arg))
    };
    if let Some(candidate) = left.iter().find(|c| perfect(c)) {
        return finish(candidate, args);
    }
    left.retain(|c| c.accepts(args));
    if left.len() > 1 {
        keep_best(&mut left, |c| (0..args.len()).filter(|i| !unknown(*i) && c.exact(*i, &args[*i])).count());
    }
    if left.len() > 1 {
        keep_best(&mut left, |c| {
            let good = |i: usize| {
                c.exact(i, &args[i])
                    || c.ty(i)
                        .is_some_and(|t| types::is_preferred(t) && types::category(t) == types::category(&args[i]))
            };
            (0..args.len()).filter(|i| !unknown(*i) && good(*i)).count()
        });
    }
    if left.len() > 1 && args.contains(&SqlType::Unknown) {
        choose_categories(&mut left, args);
    }
    if left.len() > 1 {
        // If all typed arguments have one type, the untyped ones are taken for it too.
        let mut known = args.iter().filter(|a| **a != SqlType::Unknown);
        if let Some(first) = known.next()
            && known.all(|a| a == first)
            && args.contains(&SqlType::Unknown)
        {
            let same = vec![first.clone(); args.len()];
            let fitting: Vec<usize> = (0..left.len()).filter(|i| left[*i].accepts(&same)).collect();
            if let [only] = fitting[..] {
                left = vec![left.swap_remove(only)];
            }
        }
    }
    match &left[..] {
        [] => Err(Failure::None),
        [candidate] => finish(candidate, args),
        _ => Err(Failure::Ambiguous),
    }
}

fn keep_best(candidates: &mut Vec<Candidate>, score: impl Fn(&Candidate) -> usize) {
    let best = candidates.iter().map(&score).max().unwrap_or(0);
    candidates.retain(|c| score(c) == best);
}

/// For each untyped argument: string if any candidate takes one, else the category that all agree on; then the
/// preferred type of it.
fn choose_categories(left: &mut Vec<Candidate>, args: &[SqlType]) {
    let mut chosen = Vec::new();
    for i in (0..args.len()).filter(|i| args[*i] == SqlType::Unknown) {
        let categories: Vec<char> = left.iter().map(|c| c.ty(i).map_or('P', types::category)).collect();
        let category = if categories.contains(&'S') {
            'S'
        } else if categories.iter().all(|c| *c == categories[0]) {
            categories[0]
        } else {
            return;
        };
        let preferred =
            left.iter().any(|c| c.ty(i).is_some_and(|t| types::category(t) == category && types::is_preferred(t)));
        chosen.push((i, category, preferred));
    }
    let fits = |c: &Candidate| {
        chosen.iter().all(|(i, category, preferred)| match c.ty(*i) {
            Some(ty) => types::category(ty) == *category && (!preferred || types::is_preferred(ty)),
            None => *category == 'P',
        })
    };
    if left.iter().any(fits) {
        left.retain(fits);
    }
}

/// The concrete types of the chosen candidate.
fn finish(candidate: &Candidate, args: &[SqlType]) -> Result<Resolved, Failure> {
    let element = candidate.elements(args).ok_or(Failure::None)?;
    let polymorphic = candidate.params.iter().any(|p| matches!(p, Param::AnyElement | Param::AnyArray));
    if polymorphic && element.is_none() {
        return Err(Failure::Other(error(
            "42804",
            "could not determine polymorphic type because input has type unknown",
        )));
    }
    let casts: Vec<SqlType> = candidate
        .params
        .iter()
        .zip(args)
        .map(|(param, arg)| match param {
            Param::Type(ty) => ty.clone(),
            Param::AnyElement => element.clone().expect("checked above"),
            Param::AnyArray => SqlType::Array(Box::new(element.clone().expect("checked above"))),
            Param::Any | Param::AnyNonArray if *arg == SqlType::Unknown => SqlType::Text,
            Param::Any | Param::AnyNonArray => arg.clone(),
        })
        .collect();
    // Only this one asks what an untyped literal was.
    let types = if candidate.definition.name == "pg_typeof" { args.to_vec() } else { casts.clone() };
    let function = instantiate(candidate.definition, types).ok_or(Failure::None)?;
    Ok(Resolved { function, casts })
}

/// The type of CASE, UNION, ARRAY, VALUES, COALESCE, GREATEST over these types; `None` if they do not match.
///
/// Postgres' `select_common_type`: text if all are untyped; else one category, and within it the first type to which
/// the others cast implicitly, unless it is the preferred one already.
pub fn common_type(types_in: &[SqlType]) -> Option<SqlType> {
    let mut chosen: Option<SqlType> = None;
    for ty in types_in {
        if *ty == SqlType::Unknown {
            continue;
        }
        chosen = Some(match chosen {
            None => ty.clone(),
            Some(current) if current == *ty => current,
            Some(current) => {
                if types::category(&current) != types::category(ty) {
                    return None;
                }
                let better = !types::is_preferred(&current) && implicit(&current, ty) && !implicit(ty, &current);
                if better { ty.clone() } else { current }
            }
        });
    }
    let chosen = chosen.unwrap_or(SqlType::Text);
    types_in.iter().all(|ty| implicit(ty, &chosen)).then_some(chosen)
}
