//! Renderings against Python's jinja2 (fixtures/chat/make_expected.py), and
//! templates that mean harm.

use super::*;
use std::{collections::BTreeMap, fs, path::PathBuf};

#[derive(Deserialize)]
struct Cases {
    conversations: BTreeMap<String, Vec<Message>>,
    options: Vec<CaseOptions>,
    #[serde(rename = "cases")]
    all: Vec<Case>,
}

#[derive(Deserialize)]
struct CaseOptions {
    add_generation_prompt: bool,
    #[serde(default)]
    tools: Vec<serde_json::Value>,
    #[serde(default)]
    variables: Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: String,
    options: usize,
    text: Option<String>,
    error: Option<String>,
}

#[test]
fn renders_as_transformers() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chat");
    let cases: Cases = serde_json::from_slice(&fs::read(dir.join("cases.json")).unwrap()).unwrap();
    assert!(cases.all.len() > 250);
    let mut wrong = Vec::new();
    for case in &cases.all {
        let source = fs::read_to_string(dir.join(format!("templates/{}.jinja", case.template))).unwrap();
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        let options = &cases.options[case.options];
        let found = template.render_with(
            &cases.conversations[&case.messages],
            &RenderOptions {
                add_generation_prompt: options.add_generation_prompt,
                tools: options.tools.clone(),
                variables: options.variables.clone(),
                date: Date::default(),
            },
        );
        let name = format!("{} / {} / {}", case.template, case.messages, case.options);
        match (&found, &case.text, &case.error) {
            (Ok(found), Some(text), _) if found == text => {}
            (Err(found), _, Some(error)) => {
                if let Some(own) = error.strip_prefix("TemplateError: ") {
                    assert_eq!(
                        found.to_string(),
                        format!("chat template: {REFUSAL}{own} [template-refused]")
                    );
                }
            }
            _ => wrong.push(format!(
                "{name}\n--- ours\n{found:?}\n--- want\n{:?}",
                case.text.as_ref().or(case.error.as_ref())
            )),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.all.len(), wrong.join("\n"));
}

/// The error of rendering `source` for one message; every template must end,
/// in an error, within seconds and without touching the test's own stack.
fn failure(source: &str) -> String {
    let template = match ChatTemplate::new(source, "", "") {
        Ok(template) => template,
        Err(e) => return e.to_string(),
    };
    template.render(&[Message::new("user", "0123456789")], true).unwrap_err().to_string()
}

#[test]
fn endless_and_growing_templates_run_out_of_budget() {
    let repeat = |n: usize, body: &str| {
        format!(
            "{{% set ns = namespace(x='a', l=[1]) %}}{{% for i in range({n}) %}}{body}{{% endfor %}}{{{{ ns.x|length }}}}"
        )
    };
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro m() %}{% for i in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}".to_owned(),
        repeat(60, "{% set ns.x = ns.x ~ ns.x %}"),
        repeat(60, "{% set ns.x = ns.x + ns.x %}"),
        repeat(60, "{% set ns.x = ns.x.replace('a', 'aa') %}"),
        repeat(60, "{% set ns.x = ns.x|replace('a', 'aa') %}"),
        repeat(60, "{% set ns.x = ns.x.join([ns.x, ns.x]) %}"),
        repeat(60, "{% set ns.x = ns.x * 9 %}"),
        repeat(60, "{% set ns.l = ns.l + ns.l %}"),
        repeat(60, "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        // A list that holds itself twice, sixty times over, is small until it is written out.
        repeat(60, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
        repeat(60, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l|tojson }}",
        repeat(60, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l ~ '' }}",
        repeat(60, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l|string }}",
        repeat(60, "{% set ns.l = {'a': ns.l, 'b': ns.l} %}"),
        repeat(60, "{% set ns.x = [ns] %}"),
        "{% set n = namespace() %}{% set m = namespace(n=n) %}{% set n.m = m %}{{ n }}".to_owned(),
        "{% macro m(x, n) %}{% if n %}{{ m([x, x], n - 1) }}{% endif %}{% endmacro %}{{ m(1, 60) }}"
            .to_owned(),
        "{% set a = [1] %}".to_owned() + &"{% for a in [[a, a]] %}".repeat(60) + &"{% endfor %}".repeat(60),
        "{% set a = 1 %}".to_owned() + &"{% set a = [a, a] %}".repeat(60),
        "{% set a = [1] %}".to_owned() + &"{% set a = a + a %}".repeat(60),
        "{% macro m() %}{{ caller([1]) }}{% endmacro %}".to_owned()
            + &"{% call(a) m() %}{% set a = [a, a, a, a] %}".repeat(12)
            + &"{% endcall %}".repeat(12)
            + "{{ raise_exception('end') }}",
        "{{ 'a' * 99999999999 }}".to_owned(),
        "{{ '%99999999999d' | format(1) }}".to_owned(),
        "{{ '{:>99999999999}'.format(1) }}".to_owned(),
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}".to_owned(),
        "{{ ('b' * 1000000).join(('a,' * 100000).split(',')) }}".to_owned(),
        "{{ 'a' | center(99999999999) }}".to_owned(),
        "{{ 'a\na' | indent(99999999999) }}".to_owned(),
        "{{ [1]|tojson(indent=99999999999) }}".to_owned(),
        "{{ 2 ** 99999999999 }}{{ raise_exception('x') }}".to_owned(),
        "{{ range(99999999999)|list }}".to_owned(),
    ] {
        let started = std::time::Instant::now();
        let message = failure(&source);
        assert!(message.starts_with("chat template"), "{source}: {message}");
        assert!(message.len() < 1000, "{message}");
        assert!(started.elapsed().as_secs() < 20, "{source}: {:?}", started.elapsed());
    }
}

#[test]
fn deep_values_and_deep_sources_do_not_overflow_the_stack() {
    let deep = "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}";
    assert!(failure(deep).contains("more than 256 levels"));
    let shallow =
        "{% set ns = namespace(l=[]) %}{% for i in range(250) %}{% set ns.l = [ns.l] %}{% endfor %}";
    for write in ["{{ ns.l }}", "{{ ns.l == [ns.l] }}", "{{ [ns.l]|sort }}"] {
        let template = ChatTemplate::new(&format!("{shallow}{write}"), "", "").unwrap();
        assert!(!template.render(&[], false).unwrap().is_empty());
    }
    assert!(failure(&format!("{shallow}{{{{ ns.l|tojson }}}}")).contains("more than 128 levels"));
    for source in [
        "{% if a %}".repeat(20_000),
        "{% if a %}".to_owned() + &"{% elif b %}".repeat(20_000),
        "{{ ".to_owned() + &"(".repeat(100_000),
        "{{ a".to_owned() + &"+a".repeat(100_000),
        "{{ ".to_owned() + &"not ".repeat(50_000) + "a }}",
        "{{ ".to_owned() + &"-".repeat(100_000) + "1 }}",
        "{{ a".to_owned() + &".b".repeat(100_000),
        "{{ a".to_owned() + &"|e".repeat(100_000),
        "{{ a".to_owned() + &" if a else b".repeat(20_000),
        "{% macro a() %}".repeat(10_000),
    ] {
        assert!(failure(&source).starts_with("chat template"));
    }
    // Up to the caps everything compiles, or is refused, on the large stack.
    for source in [
        "{{ a".to_owned() + &"+a".repeat(4000) + " }}",
        "{{ a".to_owned() + &"~a".repeat(4000) + " }}",
        "{{ a".to_owned() + &"|d".repeat(4000) + " }}",
        "{{ a".to_owned() + &" and a".repeat(4000) + " }}",
        "{% if a %}".repeat(128) + &"{% endif %}".repeat(128),
    ] {
        let _ = ChatTemplate::new(&source, "", "").map(|t| t.render(&[], false));
    }
}

#[test]
fn lines_are_no_longer_than_the_engine_counts() {
    for unclosed in ["{{ '".to_owned() + &"a".repeat(65_531), "\n{{".to_owned() + &" ".repeat(65_533) + "?"] {
        let message = failure(&unclosed);
        assert!(message.contains("bytes, at most 65000 are allowed [template-size]"), "{message}");
    }
    assert!(failure(&("{{ '".to_owned() + &"a".repeat(60_000))).contains("syntax error"));
}

#[test]
fn nothing_is_loaded_and_nothing_leaks() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{%- import 'x' as y %}",
        "{% from 'x' import y %}",
        "{%extends 'x'%}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ open('/etc/passwd') }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages[0].content.format(messages) }}",
    ] {
        assert!(failure(source).starts_with("chat template"), "{source}");
    }
}

#[test]
fn errors_name_the_line_and_the_cause() {
    assert_eq!(
        failure("a\n{{ raise_exception('No system role: ' ~ messages[0].role) }}"),
        "chat template: the template refuses the messages: No system role: user [template-refused]"
    );
    assert!(failure("a\nb\n{{ missing.field }}").starts_with("chat template, line 3: undefined value"));
    assert!(failure("a\n{% if %}").starts_with("chat template, line 2: syntax error"));
    assert!(failure("{{ 'a' * 90000000 }}".repeat(2).as_str()).starts_with("chat template"));
}

#[test]
fn special_tokens_date_and_variables_reach_the_template() {
    let template = ChatTemplate::new(
        "{{ bos_token }}{{ messages[0].x }}{{ thinking }}{{ strftime_now('%d %b %Y') }}{{ eos_token }}{{ tools is none }}",
        "<b>",
        "<e>",
    )
    .unwrap();
    let options = RenderOptions {
        variables: [("thinking".to_owned(), true.into())].into_iter().collect(),
        date: Date::new(2025, 1, 2).unwrap(),
        ..RenderOptions::default()
    };
    let text = template.render_with(&[Message::new("user", "").with("x", 3)], &options).unwrap();
    assert_eq!(text, "<b>3True02 Jan 2025<e>True");
}
