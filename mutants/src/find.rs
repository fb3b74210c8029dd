//! Finds the syntax that each mutant changes, and writes its branch.
//!
//! Expressions are written so that operands are evaluated once, in order, and
//! keep their types: `a < b` becomes
//! `match (&(a), &(b)) { (l, r) => if mutant(7) { *l <= *r } else { *l < *r } }`.
//! Where another operator would group a chain of operators anew (`a && b && c`
//! with `||` first), the whole chain is written a second time.

use crate::{
    Mutant,
    edit::{Edits, Piece},
};
use std::{collections::BTreeMap, ops::Range};
use syn::{BinOp, Expr, spanned::Spanned, visit::Visit};

type Place = (usize, usize);

struct Finder<'a, 'e> {
    /// Mutants that have found no syntax yet, by where they begin.
    mutants: BTreeMap<Place, Vec<&'a Mutant>>,
    edits: &'e mut Edits<'a>,
    /// Within a chain of operators whose beginning has been seen.
    inside: bool,
}

/// Writes the branches of one file's mutants; returns those it cannot.
pub fn write<'a>(text: &'a str, mutants: &'a [Mutant], edits: &mut Edits<'a>) -> syn::Result<Vec<usize>> {
    let file = syn::parse_file(text)?;
    let mut finder = Finder { mutants: BTreeMap::new(), edits, inside: false };
    for mutant in mutants {
        finder.mutants.entry(mutant.start).or_default().push(mutant);
    }
    finder.visit_file(&file);
    Ok(finder.mutants.into_values().flatten().map(|m| m.number).collect())
}

fn active(mutant: &Mutant) -> String {
    format!("crate::mutant({})", mutant.number)
}

/// How tightly an operator binds.
fn precedence(op: &str) -> usize {
    const LEVELS: [&[&str]; 9] = [
        &["||"],
        &["&&"],
        &["==", "!=", "<", "<=", ">", ">="],
        &["|"],
        &["^"],
        &["&"],
        &["<<", ">>"],
        &["+", "-"],
        &["*", "/", "%"],
    ];
    LEVELS.iter().position(|level| level.contains(&op)).unwrap_or(LEVELS.len())
}

/// The operators of a chain: `e` and the operands that are operations themselves.
fn chain(e: &syn::ExprBinary) -> Vec<&syn::ExprBinary> {
    let inner = [&e.left, &e.right].into_iter().filter_map(|operand| match &**operand {
        Expr::Binary(b) => Some(chain(b)),
        _ => None,
    });
    std::iter::once(e).chain(inner.flatten()).collect()
}

fn has_impl(of: &syn::Type) -> bool {
    struct Impls(bool);
    impl Visit<'_> for Impls {
        fn visit_type_impl_trait(&mut self, _: &syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut impls = Impls(false);
    impls.visit_type(of);
    impls.0
}

fn has_let(e: &Expr) -> bool {
    match e {
        Expr::Let(_) => true,
        Expr::Binary(b) if matches!(b.op, BinOp::And(_)) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

impl<'a> Finder<'a, '_> {
    fn range(&self, of: impl Spanned) -> Range<usize> {
        let (start, end) = (of.span().start(), of.span().end());
        self.edits.byte(start.line, start.column)..self.edits.byte(end.line, end.column)
    }

    /// Mutants of this genre that begin where `of` does.
    fn take(&mut self, of: impl Spanned, genre: &str) -> Vec<&'a Mutant> {
        self.take_if(of, genre, |_| true)
    }

    fn take_if(&mut self, of: impl Spanned, genre: &str, which: impl Fn(&Mutant) -> bool) -> Vec<&'a Mutant> {
        let start = of.span().start();
        let Some(here) = self.mutants.get_mut(&(start.line, start.column + 1)) else { return Vec::new() };
        let (taken, left) = here.drain(..).partition(|m| m.genre == genre && which(m));
        *here = left;
        taken
    }

    /// `if mutant(1) { .. } else if mutant(2) { .. } else { `
    fn branches(mutants: &[&Mutant], body: impl Fn(&str) -> String) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for mutant in mutants {
            pieces.push(Piece::shared(format!("if {} {{ ", active(mutant))));
            pieces.push(Piece::of(mutant.number, body(&mutant.replacement)));
            pieces.push(Piece::shared(" } else "));
        }
        pieces.push(Piece::shared("{ "));
        pieces
    }

    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        // Another iterator is another type than the body's.
        let opaque = matches!(&signature.output, syn::ReturnType::Type(_, of) if has_impl(of));
        let Some(first) = block.stmts.first().filter(|_| !opaque) else { return };
        let mut pieces = Vec::new();
        for mutant in self.take(first, "FnValue") {
            pieces.push(Piece::shared(format!("if {} {{ ", active(mutant))));
            pieces.push(Piece::of(mutant.number, format!("return {};", mutant.replacement)));
            pieces.push(Piece::shared(" }\n"));
        }
        let at = self.range(first).start;
        self.edits.open(at, pieces);
    }

    /// `(if mutant(1) { CHAIN } else { .. })` for each mutant that groups the
    /// chain anew; returns how many there are.
    fn regrouped(&mut self, e: &syn::ExprBinary) -> usize {
        let operations = chain(e);
        let whole = self.range(e);
        let mut pieces = Vec::new();
        if operations.len() == 1 {
            return 0;
        }
        for operation in operations {
            let op = self.range(operation.op);
            let level = precedence(self.edits.source(&op));
            let anew = |m: &Mutant| precedence(&m.replacement) != level;
            for mutant in self.take_if(operation.op, "BinaryOperator", anew) {
                let (before, after) =
                    (self.edits.source(&(whole.start..op.start)), self.edits.source(&(op.end..whole.end)));
                let text = format!("{before}{}{after}", mutant.replacement);
                pieces.push(Piece::shared(format!("(if {} {{ ", active(mutant))));
                pieces.push(Piece::of(mutant.number, text));
                pieces.push(Piece::shared(" } else { "));
            }
        }
        let count = pieces.len() / 3;
        self.edits.open(whole.start, pieces);
        count
    }

    /// `(match L { l => if mutant(1) { l || R } else { l && R } })`
    fn logical(&mut self, e: &syn::ExprBinary, mutants: &[&Mutant]) {
        let (whole, op, right) = (self.range(e), self.range(e.op), self.range(&e.right));
        let (op_text, right_text) = (self.edits.source(&op), self.edits.source(&right));
        self.edits.open(whole.start, vec![Piece::shared("(match (")]);
        let mut pieces = vec![Piece::shared(") { l_ => ")];
        pieces.extend(Self::branches(mutants, |op| format!("l_ {op} ({right_text})")));
        pieces.push(Piece::shared(format!("l_ {op_text} (")));
        self.edits.replace(&op, pieces);
        syn::visit::visit_expr_binary(self, e);
        self.edits.close(whole.end, vec![Piece::shared(") } })")]);
    }

    /// `(match ((L), (R)) { (l, r) => if mutant(1) { l + r } else { l - r } })`;
    /// comparisons do not take their operands.
    fn operation(&mut self, e: &syn::ExprBinary, mutants: &[&Mutant]) {
        let (whole, op) = (self.range(e), self.range(e.op));
        let op_text = self.edits.source(&op);
        let compares = matches!(op_text, "<" | "<=" | ">" | ">=" | "==" | "!=");
        let (borrow, value) = if compares { ("&", "*") } else { ("", "") };
        self.edits.open(whole.start, vec![Piece::shared(format!("(match ({borrow}("))]);
        self.edits.replace(&op, vec![Piece::shared(format!("), {borrow}("))]);
        syn::visit::visit_expr_binary(self, e);
        let mut pieces = vec![Piece::shared(")) { (l_, r_) => ")];
        pieces.extend(Self::branches(mutants, |op| format!("{value}l_ {op} {value}r_")));
        pieces.push(Piece::shared(format!("{value}l_ {op_text} {value}r_ }} }})")));
        self.edits.close(whole.end, pieces);
    }

    /// `{ if mutant(1) { L -= R } else { L += R } }`
    fn assignment(&mut self, e: &syn::ExprBinary, mutants: &[&Mutant]) {
        let (whole, op, right) = (self.range(e), self.range(e.op), self.range(&e.right));
        let (left, right) = (self.edits.source(&(whole.start..op.start)), self.edits.source(&right));
        let mut pieces = vec![Piece::shared("{ ")];
        pieces.extend(Self::branches(mutants, |op| format!("{left} {op} {right}")));
        self.edits.open(whole.start, pieces);
        syn::visit::visit_expr_binary(self, e);
        self.edits.close(whole.end, vec![Piece::shared(" } }")]);
    }
}

impl<'ast> Visit<'ast> for Finder<'_, '_> {
    fn visit_item_fn(&mut self, f: &'ast syn::ItemFn) {
        self.body(&f.sig, &f.block);
        syn::visit::visit_item_fn(self, f);
    }

    fn visit_impl_item_fn(&mut self, f: &'ast syn::ImplItemFn) {
        self.body(&f.sig, &f.block);
        syn::visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'ast syn::TraitItemFn) {
        f.default.iter().for_each(|block| self.body(&f.sig, block));
        syn::visit::visit_trait_item_fn(self, f);
    }

    // The value of a constant is known before any program runs.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_expr_binary(&mut self, e: &'ast syn::ExprBinary) {
        let inside = std::mem::replace(&mut self.inside, true);
        // A chain of `let` has no other form than `&&`.
        let lets = has_let(&e.left) || has_let(&e.right);
        let wrapped = if inside || lets { 0 } else { self.regrouped(e) };
        let mutants = if lets { Vec::new() } else { self.take(e.op, "BinaryOperator") };
        // What is taken from a chain of `let` are its single operands.
        self.inside = !lets;
        match e.op {
            _ if mutants.is_empty() => syn::visit::visit_expr_binary(self, e),
            BinOp::And(_) | BinOp::Or(_) => self.logical(e, &mutants),
            BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::MulAssign(_)
            | BinOp::DivAssign(_)
            | BinOp::RemAssign(_)
            | BinOp::BitAndAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::BitXorAssign(_)
            | BinOp::ShlAssign(_)
            | BinOp::ShrAssign(_) => self.assignment(e, &mutants),
            _ => self.operation(e, &mutants),
        }
        let end = self.range(e).end;
        self.edits.close(end, vec![Piece::shared(" })".repeat(wrapped))]);
        self.inside = inside;
    }

    fn visit_expr(&mut self, e: &'ast Expr) {
        // Whatever stands between two operations keeps their grouping.
        let operation = matches!(e, Expr::Binary(_));
        let inside = std::mem::replace(&mut self.inside, self.inside && operation);
        syn::visit::visit_expr(self, e);
        self.inside = inside;
    }

    /// `(match (X) { x => if mutant(1) { x } else { !x } })`
    fn visit_expr_unary(&mut self, e: &'ast syn::ExprUnary) {
        let mutants = self.take(e.op, "UnaryOperator");
        if mutants.is_empty() {
            return syn::visit::visit_expr_unary(self, e);
        }
        let (whole, op) = (self.range(e), self.range(e.op));
        self.edits.replace(&op, vec![Piece::shared("(match (")]);
        syn::visit::visit_expr_unary(self, e);
        let mut pieces = vec![Piece::shared(") { x_ => ")];
        pieces.extend(Self::branches(&mutants, |_| "x_".to_owned()));
        pieces.push(Piece::shared(format!("{}x_ }} }})", self.edits.source(&op))));
        self.edits.close(whole.end, pieces);
    }

    /// `P if !mutant(1) && (mutant(2) || !mutant(3) && (G)) => ..`
    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let delete = self.take(arm, "MatchArm");
        let without: Vec<Piece> =
            delete.iter().map(|m| Piece::of(m.number, format!("!{} && ", active(m)))).collect();
        if let Some((_, guard)) = &arm.guard {
            let mut pieces = without;
            pieces.push(Piece::shared("("));
            for mutant in self.take(guard, "MatchArmGuard") {
                let [not, or] = if mutant.replacement == "true" { ["", "||"] } else { ["!", "&&"] };
                pieces.push(Piece::of(mutant.number, format!("{not}{} {or} ", active(mutant))));
            }
            let range = self.range(guard);
            pieces.push(Piece::shared("("));
            self.edits.open(range.start, pieces);
            self.visit_expr(guard);
            self.edits.close(range.end, vec![Piece::shared("))")]);
        } else if !without.is_empty() {
            let end = self.range(&arm.pat).end;
            self.edits.open(end, vec![Piece::shared(" if ")]);
            self.edits.open(end, without);
            self.edits.open(end, vec![Piece::shared("true")]);
        }
        self.visit_expr(&arm.body);
    }

    /// `S { field: if mutant(1) { (BASE).field } else { value }, ..BASE }`
    fn visit_expr_struct(&mut self, e: &'ast syn::ExprStruct) {
        let Some(rest) = &e.rest else { return syn::visit::visit_expr_struct(self, e) };
        let rest = self.edits.source(&self.range(rest));
        for field in &e.fields {
            let mutants = self.take(field, "StructField");
            let (value, syn::Member::Named(name)) = (self.range(&field.expr), &field.member) else {
                continue;
            };
            if !mutants.is_empty() {
                self.edits.open(value.start, Self::branches(&mutants, |_| format!("({rest}).{name}")));
            }
            self.visit_expr(&field.expr);
            if !mutants.is_empty() {
                self.edits.close(value.end, vec![Piece::shared(" }")]);
            }
        }
    }
}
