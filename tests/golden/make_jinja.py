#!/usr/bin/env python3
"""make_jinja.py - Jinja vectors of our own: expressions and templates in the manner of chat templates, with what Jinja2 prints.

    make_jinja.py OUT.jsonl [--random N] [--seed S]

Needs jinja2 3.1 (the oracle; never needed by the tests). The environment is that of transformers' apply_chat_template. A line is
{feature, source, context, expected} or, for a template that fails, {feature, source, context, error: {kind}}. --random adds N
expressions put together by chance, which is for finding differences, not for keeping.
"""
import argparse
import datetime
import json
import random

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2025, 8, 6, 14, 30, 5)


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: prints its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: NOW.strftime(fmt)
    return env


CONTEXT = {
    "s": "Hello, World", "u": "  \u00e9t\u00e9 \u4f60\u597d \u1e9e\n", "e": "", "w": "the quick brown fox jumps", "h": "<a href='x'>&\"</a>",
    "n": 7, "z": 0, "m": -3, "big": 12345678901, "f": 2.5, "g": -0.1, "t": True, "b": False, "x": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "el": [], "mix": [1, "a", None, True, 2.5, [1], {"k": "v"}],
    "d": {"b": 1, "a": [1, 2], "items": "own", "C": {"x": "y"}}, "ed": {},
    "users": [{"name": "Ann", "age": 30, "tags": ["x", "y"]}, {"name": "bob", "age": 25, "tags": []},
              {"name": "Cid", "age": 30, "tags": ["z"], "boss": {"name": "Ann"}}],
}
NAMES = [k for k in CONTEXT] + ["missing", "missing2"]

# One feature a row: name, template.
ROWS = [
    ("filters-strings", "{{ w|title }}|{{ w|capitalize }}|{{ w|wordcount }}|{{ w|truncate(12) }}|{{ w|truncate(12, true) }}|{{ w|truncate(12, true, '..') }}|{{ w|truncate(24, leeway=5) }}"),
    ("filters-center", "[{{ s|center(20) }}] [{{ 'x'|center }}]"),
    ("filters-urlencode", "{{ 'a b/c?d=\u00e9&'|urlencode }}|{{ {'a': 'b c', 'd': 1}|urlencode }}|{{ [('x', 'y z')]|urlencode }}"),
    ("filters-escape", "{{ h|e }}|{{ h|escape|e }}|{{ h|forceescape }}|{{ h|safe }}|{{ (h|e) is escaped }}"),
    ("filters-round", "{{ 2.5|round }}|{{ 3.5|round }}|{{ 2.675|round(2) }}|{{ 42.55|round(1, 'floor') }}|{{ 42.51|round(1, 'ceil') }}|{{ 1234|round(-2) }}|{{ 2.5|round|int }}"),
    ("filters-int", "{{ '42'|int }}|{{ ' 7 '|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ '0x1f'|int(0, 16) }}|{{ '1.9'|int }}|{{ 3.99|int }}|{{ -3.99|int }}|{{ true|int }}|{{ none|int(9) }}"),
    ("filters-float", "{{ '1.5'|float }}|{{ 'x'|float }}|{{ 'x'|float(2.5) }}|{{ 3|float }}|{{ '1e3'|float }}|{{ none|float }}"),
    ("filters-abs", "{{ m|abs }}|{{ g|abs }}|{{ true|abs }}"),
    ("filters-minmax", "{{ l|min }}|{{ l|max }}|{{ ls|min }}|{{ ls|max(true) }}|{{ users|max(attribute='age') }}|{{ el|min }}|{{ el|max is defined }}"),
    ("filters-sum", "{{ l|sum }}|{{ users|sum('age') }}|{{ users|sum(attribute='age', start=100) }}|{{ el|sum }}|{{ [[1],[2]]|sum(start=[]) }}"),
    ("filters-groupby", "{% for k, us in users|groupby('age') %}{{ k }}:{{ us|map(attribute='name')|join(',') }};{% endfor %}|{% for g in users|groupby('boss.name', default='-') %}{{ g.grouper }}={{ g.list|length }} {% endfor %}"),
    ("filters-groupby-case", "{% for k, v in ['a','A','b']|map('upper')|groupby(0) %}{{ k }}{{ v }}{% endfor %}|{% for k, v in [{'x':'a'},{'x':'A'}]|groupby('x') %}{{ k }}{{ v }}{% endfor %}|{% for k, v in [{'x':'a'},{'x':'A'}]|groupby('x', case_sensitive=true) %}{{ k }}{{ v }}{% endfor %}"),
    ("filters-batch-slice", "{{ range(7)|batch(3)|list }}|{{ range(7)|batch(3, 'x')|list }}|{{ range(7)|slice(3)|list }}|{{ range(7)|slice(3, 'x')|list }}|{{ el|batch(2)|list }}|{{ el|slice(2)|list }}"),
    ("filters-dictsort", "{{ d|dictsort }}|{{ d|dictsort(true) }}|{{ {'a': 2, 'b': 1}|dictsort(by='value') }}|{{ {'a': 2, 'b': 1}|dictsort(reverse=true) }}|{{ {'a': 'B', 'b': 'a'}|dictsort(false, 'value') }}"),
    ("filters-sort", "{{ ls|sort }}|{{ ls|sort(true) }}|{{ ls|sort(case_sensitive=true) }}|{{ users|sort(attribute='age,name')|map(attribute='name')|list }}|{{ users|sort(attribute='name', reverse=true)|map(attribute='name')|list }}"),
    ("filters-unique", "{{ ['a','A','b','a']|unique|list }}|{{ ['a','A']|unique(true)|list }}|{{ users|unique(attribute='age')|map(attribute='name')|list }}"),
    ("filters-map", "{{ ls|map('upper')|list }}|{{ users|map(attribute='tags')|map('length')|list }}|{{ users|map(attribute='boss.name', default='-')|list }}|{{ users|map(attribute='tags.0', default='?')|list }}|{{ [1,2]|map('string')|map('center', 3)|join('|') }}"),
    ("filters-select", "{{ mix|select|list }}|{{ mix|reject|list }}|{{ mix|select('string')|list }}|{{ l|select('>', 1)|list }}|{{ l|reject('divisibleby', 2)|list }}|{{ users|selectattr('boss')|map(attribute='name')|list }}|{{ users|selectattr('age', 'in', [25])|list|length }}|{{ users|rejectattr('boss', 'defined')|list|length }}|{{ users|selectattr('boss.name', '==', 'Ann')|list|length }}"),
    ("filters-join", "{{ l|join }}|{{ l|join('-') }}|{{ users|join(', ', attribute='name') }}|{{ 'abc'|join('.') }}|{{ d|join(',') }}|{{ mix|join(' ') }}"),
    ("filters-default", "{{ missing|default('d') }}|{{ x|default('d') }}|{{ e|default('d', true) }}|{{ missing.a|default('q') }}" .replace("missing.a", "d.nope")),
    ("filters-first-last", "{{ l|first }}{{ l|last }}{{ 'xyz'|first }}{{ 'xyz'|last }}|{{ el|first }}|{{ el|last is defined }}|{{ d|first }}"),
    ("filters-reverse", "{{ 'abc'|reverse }}|{{ l|reverse|list }}|{{ range(3)|reverse|list }}"),
    ("filters-list", "{{ 'ab'|list }}|{{ d|list }}|{{ d.items|list }}|{{ range(2)|list }}"),
    ("filters-items", "{{ d|items|list }}|{{ missing|items|list }}|{% for k, v in {'x': 1}|items %}{{ k }}={{ v }}{% endfor %}"),
    ("filters-indent", "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(1, blank=true) }}|{{ 'a\\nb'|indent('> ') }}"),
    ("filters-replace", "{{ 'aaa'|replace('a', 'b', 2) }}|{{ 'abc'|replace('', '-') }}|{{ 123|replace('2', 'x') }}"),
    ("filters-format", "{{ '%s-%d-%.2f'|format('a', 3, 1.005) }}|{{ '%(x)s %(y)05d'|format(x='q', y=42) }}|{{ '%5s|%-5s|%+d|%x|%o|%e|%g|%%|%r|%c'|format('a','b',5,255,8,12345.678,0.00001,'r','c') }}"),
    ("filters-trim", "[{{ u|trim }}] [{{ 'xxaxx'|trim('x') }}] [{{ 12|trim }}]"),
    ("filters-attr-pprint", "{{ d|attr('items') is callable }}|{{ s|attr('nope') is defined }}|{{ {'a': none, 'b': [1, 'x']}|pprint }}"),
    ("filters-string-types", "{{ 1|string ~ none|string ~ 1.0|string ~ [1]|string }}|{{ d|length }}{{ s|count }}"),
    ("filters-tojson", "{{ mix|tojson }}|{{ u|tojson }}|{{ h|tojson }}|{{ d|tojson(indent=2) }}|{{ d|tojson(separators=(',', ':')) }}|{{ d|tojson(sort_keys=true) }}|{{ u|tojson(ensure_ascii=true) }}|{{ [1.0, 1e100, -0.0, 1e-7, 123456789.125]|tojson }}|{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}"),
    ("filters-tojson-special", "{{ '\\x00\\x1f\\x7f\\u2028'|tojson }}|{{ []|tojson(indent=4) }}|{{ {}|tojson(indent=4) }}|{{ [[], {}]|tojson(indent=1) }}|{{ (1, 2)|tojson }}|{{ 'a/b'|tojson }}"),
    ("filters-chain-call", "{{ (s|lower)[0:4]|upper ~ '!' }}|{{ -1|abs }}|{{ 2 ** -1|abs }}|{{ not x|default(true) }}"),
    ("filter-block", "{% filter upper|replace('A', '4') %}a{{ s }}{% endfilter %}|{% filter indent(2, true) %}x\ny{% endfilter %}"),
    ("tests-all", "{{ n is odd }}{{ n is even }}{{ n is divisibleby(7) }}{{ n is divisibleby 3 }}{{ n is number }}{{ f is number }}{{ t is number }}{{ t is integer }}{{ f is float }}{{ t is boolean }}{{ s is string }}{{ l is sequence }}{{ s is iterable }}{{ d is mapping }}{{ n is iterable }}{{ x is none }}{{ s is callable }}{{ 'upper' is filter }}{{ 'nofilter' is filter }}{{ 'odd' is test }}{{ 'A' is upper }}{{ 'a' is lower }}{{ 1 is sameas 1 }}{{ x is sameas none }}"),
    ("tests-compare", "{{ 1 is eq 1.0 }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 2 is ge 2 }}{{ 'a' is in 'abc' }}{{ 2 is in [1, 2] }}{{ 'b' is in d }}{{ 3 is gt(2) }}{{ 1 is lessthan 3 }}{{ 3 is greaterthan 4 }}{{ 1 is equalto true }}"),
    ("tests-not", "{{ x is not none }}{{ missing is not defined }}{{ not missing is defined }}{{ 1 is not in [2] }}{{ 4 is not divisibleby 3 }}{{ missing is undefined }}"),
    ("string-methods", "{{ s.upper() }}{{ s.swapcase() }}{{ s.find('o') }}{{ s.rfind('o') }}{{ s.index('W') }}{{ s.count('l') }}{{ s.startswith(('X','He')) }}{{ s.endswith('d') }}{{ s.partition(', ') }}{{ s.rpartition('l') }}{{ s.split(', ') }}{{ w.split(None, 2) }}{{ w.rsplit(' ', 1) }}{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}"),
    ("string-methods-pad", "[{{ 'x'.ljust(4) }}|{{ 'x'.rjust(4, '.') }}|{{ 'x'.center(4, '*') }}|{{ '-42'.zfill(6) }}]"),
    ("string-methods-is", "{{ '1'.isdigit() }}{{ 'a1'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ ''.isdigit() }}"),
    ("string-methods-prefix", "{{ 'abcabc'.removeprefix('abc') }}{{ 'abcabc'.removesuffix('bc') }}{{ 'xyx'.strip('x') }}{{ '  a '.lstrip() }}|{{ 'a  '.rstrip() }}|{{ 'a-b-c'.replace('-', '+', 1) }}|{{ '-'.join(['a', 'b']) }}|{{ ', '.join(d) }}"),
    ("string-format", "{{ '{} {}'.format(1, 'a') }}|{{ '{1}{0}'.format('a', 'b') }}|{{ '{x:>5}|{y:<4}|{z:^5}'.format(x=1, y='a', z='m') }}|{{ '{:.2f} {:05d} {:,} {:x} {:%} {:e}'.format(3.14159, 42, 1234567, 255, 0.5, 12345.0) }}|{{ '{{}}'.format() }}|{{ '{0[a]} {1.x}'.format({'a': 5}, {'x': 1}) if false else '-' }}|{{ '{!r} {!s}'.format('q', 'q') }}"),
    ("string-percent", "{{ '%s and %s' % (1, 'two') }}|{{ '%d%%' % 50 }}|{{ '%(a)s' % {'a': 7} }}|{{ '%05.1f|%-6s|%6s|%+d' % (2.25, 'ab', 'cd', 3) }}|{{ '%s' % [1, 2] }}|{{ '%r' % 'x' }}|{{ '%.3s' % 'abcdef' }}|{{ '%i' % 3.7 }}"),
    ("string-unicode", "{{ u.strip()|length }}|{{ u[2:5] }}|{{ '\u00df'.upper() }}|{{ '\u0130'.lower()|length }}|{{ '\u4f60\u597d'[::-1] }}|{{ '\u00e9' < 'z' }}|{{ 'e\u0301'|length }}"),
    ("string-escapes-2", "{{ 'a\\tb\\\\n\\'\\\"' }}|{{ \"\\x41\\u00e9\\U0001F600\\101\" }}|{{ 'a' 'b' \"c\" }}"),
    ("string-repeat", "{{ 'ab' * 3 }}|{{ 3 * 'x' }}|{{ '-' * 0 }}|{{ 'a' * -1 }}|{{ [0] * 3 }}|{{ (1,) * 2 }}"),
    ("slices", "{{ s[1:4] }}|{{ s[-3:] }}|{{ s[:-3] }}|{{ s[::2] }}|{{ s[::-1] }}|{{ l[1:] }}|{{ l[::-1] }}|{{ l[5:] }}|{{ l[-1] }}|{{ s[99:] }}|{{ l[:0] }}|{{ range(10)[2:8:3]|list }}|{{ (1,2,3)[1:] }}"),
    ("numbers", "{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7 / 2 }}|{{ 4 / 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 2 ** 0.5 }}|{{ 1e3 }}|{{ 1_000 }}|{{ 0x1F }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1.5e-3 }}|{{ 7.0 // 2 }}|{{ -7.5 % 2 }}|{{ +5 }}|{{ --5 }}|{{ -2 ** 2 }}|{{ 2 ** 3 ** 2 }}"),
    ("floats", "{{ 0.1 + 0.2 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 123456789012345680.0 }}|{{ 1e-5 }}|{{ 0.0001 }}|{{ 1.0 }}|{{ -0.0 }}|{{ 1e22 }}|{{ 1/3 }}|{{ 100.0 * 3 }}|{{ 2.0 ** 70 }}|{{ 5e-324 }}"),
    ("bool-arithmetic", "{{ true + 1 }}|{{ true and 5 }}|{{ 0 or 'x' }}|{{ '' or none }}|{{ not [] }}|{{ true == 1 }}|{{ [1] and [] }}|{{ none or missing or 'q' }}|{{ (1 and 2) or 3 }}"),
    ("comparisons", "{{ 1 < 2 < 3 }}|{{ 1 < 2 > 5 }}|{{ 1 == 1.0 }}|{{ '1' == 1 }}|{{ none == false }}|{{ [1, 2] < [1, 3] }}|{{ (1, 2) == (1, 2) }}|{{ [1] == (1,) }}|{{ {'a': 1} == {'a': 1.0} }}|{{ 'a' < 'B' }}|{{ 1 != none }}|{{ true == 1 }}|{{ 'abc' in s }}|{{ 'x' not in l }}|{{ 1 in [true] }}|{{ none in [none] }}"),
    ("comparison-mixed-error", "{{ 1 < 'a' }}"), ("comparison-none-error", "{{ none < 1 }}"), ("comparison-list-error", "{{ [1] < 1 }}"), ("comparison-dict-error", "{{ {} < {} }}"),
    ("in-error", "{{ 1 in 5 }}"), ("in-string-error", "{{ 1 in 'abc' }}"), ("subtract-error", "{{ 'a' - 'b' }}"), ("add-list-error", "{{ [1] + 'a' }}"), ("divide-zero", "{{ 1 / 0 }}"), ("modulo-zero", "{{ 1 % 0 }}"), ("negate-error", "{{ -'a' }}"),
    ("concat-lists", "{{ [1] + [2, 3] }}|{{ (1,) + (2,) }}|{{ l + el }}"),
    ("undefined-print", "[{{ missing }}][{{ d.missing }}][{{ d['missing'] }}][{{ l[99] }}][{{ missing|upper }}][{{ missing|length }}][{{ missing|list }}][{{ missing|join(',') }}]"),
    ("undefined-logic", "{{ missing == missing2 }}{{ missing == none }}{{ not missing }}{{ missing or 1 }}{{ missing in [1] }}{{ 'x' if missing }}{{ missing ~ 'a' }}{{ missing is none }}{{ missing is string }}{{ missing is iterable }}"),
    ("undefined-loop", "{% for a in missing %}x{% else %}none{% endfor %}{% if missing %}y{% endif %}{% for a in d.nope %}x{% endfor %}"),
    ("undefined-attr-error", "{{ missing.a }}"), ("undefined-item-error", "{{ missing['a'] }}"), ("undefined-add-error", "{{ missing + 1 }}"), ("undefined-less-error", "{{ missing < 1 }}"), ("undefined-call-error-2", "{{ missing() }}"), ("undefined-method-error", "{{ s.nope() }}"),
    ("undefined-int", "{{ missing|int }}|{{ missing|float }}|{{ missing|string }}|{{ missing|e }}|{{ missing|trim }}|{{ missing|replace('a','b') }}|{{ missing|default('z') }}|{{ missing|first }}|{{ missing|sum }}|{{ missing|sort }}|{{ missing|upper }}|{{ missing|wordcount }}|{{ missing|reverse|list }}"),
    ("undefined-tojson-error", "{{ missing|tojson }}"), ("undefined-in-string", "{{ missing in 'abc' }}"), ("undefined-slice-error", "{{ missing[1:] }}"), ("undefined-abs-error", "{{ missing|abs }}"), ("undefined-round-error", "{{ missing|round }}"),
    ("none-behaviour", "{{ none|length if false else 0 }}|{{ none ~ 'a' }}|{{ none|string }}|{{ none|default('d') }}|{{ none|default('d', true) }}|{{ x.foo }}|{{ none|upper }}|{{ none|trim }}|{{ [none]|join }}"),
    ("none-length-error", "{{ none|length }}"), ("none-iterate-error", "{% for a in none %}{% endfor %}"), ("none-join-error", "{{ none|join }}"), ("none-call-error", "{{ none() }}"), ("none-subscript", "{{ x['a'] }}|{{ x.a is defined }}"), ("int-subscript", "{{ n['a'] }}|{{ n[0] }}"),
    ("macro-arguments", "{% macro m(a, b=2, c=b) %}{{ a }}{{ b }}{{ c }}|{{ varargs }}|{{ kwargs }};{% endmacro %}{{ m(1) }}{{ m(1, 5) }}{{ m(1, c=3) }}{{ m(1, 2, 3, 4, k=5) }}{{ m() }}{{ m.name }}"),
    ("macro-too-many-error", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}"), ("macro-unknown-keyword-error", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=2) }}"), ("macro-twice-error", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}"),
    ("macro-scope", "{% set v = 1 %}{% macro m() %}{{ v }}{% set v = 2 %}{{ v }}{% endmacro %}{{ m() }}{{ v }}{% for i in [1] %}{% macro k() %}{{ i }}{{ loop is defined }}{% endmacro %}{{ k() }}{% endfor %}{{ k is defined }}"),
    ("macro-escapes-space", "{% macro m(x) -%}\n  [{{ x }}]\n{%- endmacro %}\n<{{ m(1) }}>\n<{{ m('a') | upper }}>"),
    ("caller", "{% macro box(t) %}<{{ t }}:{{ caller() }}>{% endmacro %}{% call box('x') %}in {{ n }}{% endcall %}{% macro each(xs) %}{% for i in xs %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(a, b=9) each(l) %}({{ a }},{{ b }}){% endcall %}"),
    ("caller-defined", "{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}c{% endcall %}"),
    ("set-block-filter", "{% set a %}x{{ n }}y{% endset %}{{ a }}{{ a|length }}{% set b | upper | trim %} q {% endset %}[{{ b }}]{{ a is string }}"),
    ("set-unpack", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = (3, 4) %}{{ c }}{{ d2 }}{% set t2 = 1, %}{{ t2 }}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}"),
    ("set-unpack-error", "{% set a, b = [1] %}"), ("set-attribute-error", "{% set d.x = 1 %}"), ("set-item-syntax-error", "{% set d['x'] = 1 %}"),
    ("namespace-2", "{% set ns = namespace(a=1, b=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.d = {'k': ns.a} %}{{ ns.d.k }}{{ ns['a'] }}{% set o = namespace({'x': 1}, y=2) %}{{ o.x }}{{ o.y }}"),
    ("namespace-in-macro", "{% set ns = namespace(n=0) %}{% macro up(by=1) %}{% set ns.n = ns.n + by %}{{ ns.n }}{% endmacro %}{{ up() }}{{ up(5) }}{{ ns.n }}"),
    ("loop-everything", "{% for i in ls %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.cycle('x','y') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.changed(i|lower) }};{% endfor %}"),
    ("loop-recursive", "{% for k, v in {'a': {'b': {'c': {}}}, 'd': {}}|items recursive %}{{ loop.depth }}{{ k }}{% if v %}({{ loop(v|items) }}){% endif %}{% endfor %}"),
    ("loop-controls", "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% else %}never{% endfor %}{% for i in [] %}{% else %}empty{% endfor %}"),
    ("loop-filter", "{% for i in range(10) if i is odd and i > 2 %}{{ loop.index }}:{{ i }}{{ ',' if not loop.last }}{% else %}none{% endfor %}{% for u in users if u.age > 99 %}x{% else %}none{% endfor %}"),
    ("loop-scope", "{% set v = 0 %}{% for i in l %}{% set v = v + i %}{{ v }}{% endfor %}{{ v }}{% for i in l %}{% endfor %}{{ i is defined }}{% for v in [9] %}{{ v }}{% endfor %}{{ v }}"),
    ("loop-over", "{% for c in 'ab' %}{{ c }}{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for a, b in d.C.items() %}{{ a }}{{ b }}{% endfor %}{% for i in (1, 2) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}"),
    ("loop-unpack-error", "{% for a, b in [1] %}{% endfor %}"), ("loop-int-error", "{% for a in 5 %}{% endfor %}"), ("loop-outer", "{% for i in [1,2] %}{% set o = loop %}{% for j in 'ab' %}{{ o.index }}{{ loop.index }}{{ j }} {% endfor %}{% endfor %}{{ loop is defined }}"),
    ("with", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a is defined }}{% with %}{% set q = 1 %}{% endwith %}{{ q is defined }}"),
    ("if-chains", "{% if x %}1{% elif missing %}2{% elif l and s %}3{% else %}4{% endif %}{{ 'a' if n > 3 else 'b' if n else 'c' }}{{ 'q' if false }}{{ ('q' if false) is defined }}"),
    ("whitespace-1", "  {% if true %}\n  a\n  {% endif %}\n b {%- if true -%} \n c \n {%- endif %} d\n{{- n -}}\n e {{ n }}\n"),
    ("whitespace-2", "{%+ if true %}\nx\n{%+ endif %}\n\t {% set a = 1 %}\n\n y {#- c -#} z\n  {# comment #}\nq {%- raw -%} {{ a }} {%- endraw -%} r"),
    ("whitespace-3", "a\n{% if true -%}\n\n  b\n{%- else -%}\nc\n{% endif -%}\n\nd\n    {%- for i in l %}\n  {{ i }}\n    {%- endfor %}\n\n"),
    ("whitespace-4", "x {% if true +%}\n y {% endif %}\n{{ 'a' -}}   {{- 'b' }}\n\n{{ 'c' +}}\n"),
    ("comments", "a{# {{ b }} {% if %} #}b{#- x\n\n -#}  c"),
    ("raw-block", "{% raw %}{{ x }}{% if %}{# #}{% endraw %}{% raw -%}  y  {%- endraw %}"),
    ("generation", "{% for m in [1, 2] %}{% generation %}{{ m }}\n{% endgeneration %}-{% endfor %}"),
    ("dict-methods", "{{ d.get('b') }}{{ d.get('q') }}{{ d.get('q', 'z') }}{{ d.keys()|list }}{{ d.values()|list|length }}{{ d['items'] }}{{ d.items()|list|first }}{{ d|length }}{{ 'b' in d }}{{ d.C.x }}{{ d['C']['x'] }}{{ {'a': 1}.copy() }}{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ dict([('p', 1)]) }}"),
    ("list-methods", "{{ l.index(1) }}{{ [1, 1].count(1) }}{{ l.copy() }}{{ (1, 2).index(2) }}{{ [[1, 2], [3]][0][1] }}"),
    ("list-append-error", "{{ l.append(1) }}"), ("dict-update-error", "{{ d.update({'a': 1}) }}"), ("dict-pop-error", "{{ d.pop('a') }}"), ("list-index-error", "{{ l.index(99) }}"), ("string-index-error", "{{ s.index('zz') }}"),
    ("dunder-is-hidden", "{{ s.__class__ is defined }}|{{ ''.__class__ }}|{{ d.__init__ is defined }}"), ("dunder-call-error", "{{ ''.__class__() }}"),
    ("reprs", "{{ ['a', \"b'c\", 'd\"e', '\\n\\t\\\\', '\u00e9', '\u200b', 1.0, none, true, (), (1,), {}, {'k': [1]}] }}|{{ {'a': 'x', 1: 2, none: 3} }}|{{ (1, 'a') }}|{{ d.keys() }}|{{ d.C.items() }}|{{ d.C.values() }}|{{ range(3) }}|{{ range(1, 5, 2) }}"),
    ("literals", "{{ True }}{{ true }}{{ False }}{{ None }}{{ none }}{{ [1, 2, ] }}{{ {'a': 1, } }}{{ () }}{{ (1) }}{{ {} }}{{ [] }}{{ {'x': [{'y': (1, 2)}]} }}"),
    ("precedence-2", "{{ 1 + 2 * 3 }}{{ (1 + 2) * 3 }}{{ 'a' ~ 1 + 2 }}{{ 1 ~ 2 * 3 }}{{ not 1 == 2 }}{{ 2 + 3 ~ 'x' }}{{ -1|abs }}{{ 'a' in 'abc' and 'b' }}{{ 1 if 0 else 2 if 0 else 3 }}{{ l[0] + l[1] ** 2 }}{{ 5 - 2 - 1 }}{{ 2 * 3 % 4 }}{{ 10 // 3 * 3 }}"),
    ("subscript-forms", "{{ l.0 }}{{ l[0] }}{{ users.0.name }}{{ users[1]['name'] }}{{ users[-1].boss.name }}{{ d['a'][1] }}{{ d.a.1 }}{{ s[0] }}{{ s.0 }}"),
    ("unknown-tag-error", "{% nope %}"), ("unclosed-error", "{% if true %}x"), ("stray-end-error", "{% endif %}"), ("bad-operator-error", "{{ 1 +* 2 }}"), ("unclosed-print-error", "{{ 1 "), ("unclosed-string-error", "{{ 'a }}"), ("unclosed-comment-error", "{# a"), ("keyword-argument-error", "{{ range(a=1) }}"), ("assign-literal-error", "{% set 1 = 2 %}"), ("not-callable-error", "{{ 5() }}"), ("filter-argument-error", "{{ s|upper(1) }}"), ("filter-missing-argument-error", "{{ s|replace('a') }}"),
    ("do-error", "{% do l %}"),
    ("globals", "{{ range(3)|list }}{{ dict(a=1) }}"),
    ("strftime", "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}|{{ strftime_now('%d %b %Y, %A %j %y %I %p %B %a %e %% %-d') }}"),
    ("raise", "{% if n %}{{ raise_exception('bad ' ~ n) }}{% endif %}"),
    ("range-limits", "{{ range(0)|list }}{{ range(-1)|list }}{{ range(2, 2)|list }}{{ range(3, 0, -1)|list }}{{ range(10)|length }}{{ 3 in range(5) }}{{ range(5)[2] }}"), ("range-step-error", "{{ range(1, 2, 0) }}"), ("range-huge-error", "{{ range(1000000) }}"),
    ("line-statement-absent", "# for i in l\n{{ n }}\n## comment\n"),
    ("integers-large", "{{ big }}|{{ big * 10 }}|{{ big // 3 }}|{{ 2 ** 62 }}|{{ -(2 ** 62) }}|{{ 9223372036854775807 }}"),
    ("string-compare-sort", "{{ ['b', 'a', 'C', '\u00e9']|sort }}|{{ ['b', 'a', 'C', '\u00e9']|sort(case_sensitive=true) }}|{{ [2, 1.5, true]|sort }}"), ("sort-mixed-error", "{{ [1, 'a']|sort }}"),
    ("filter-on-call", "{{ s.lower()|title }}|{{ (l|sort)[0] }}|{{ l|sort|first + 1 }}|{{ ([1, 2]|map('string')|list)[1] }}|{{ users|map(attribute='name')|sort|join(' ') }}"),
    ("generator-once", "{% set g2 = l|map('string') %}{{ g2|list }}{{ g2|list }}|{{ (l|select) is iterable }}{{ (l|select) is sequence }}"),
    ("generator-length-error", "{{ (l|map('string'))|length }}"), ("generator-index-error", "{{ (l|map('string'))[0] }}"),
    ("set-in-if", "{% if true %}{% set a = 1 %}{% endif %}{{ a }}{% if false %}{% set b2 = 1 %}{% endif %}{{ b2 is defined }}"),
    ("nested-quotes", "{{ \"it's\" }}{{ 'say \"x\"' }}{{ '{{ x }}' }}{{ \"%}\" }}"),
    ("expression-newlines", "{{\n  [\n 1,\n 2 ]\n  | join(\n '-' )\n}}{% set\n a\n = {\n'x'\n:\n1} %}{{ a\n.x }}"),
    ("ternary-nested", "{{ (n > 5 and 'big') or 'small' }}{{ [1, 2][n > 5] }}{{ {true: 'y', false: 'n'}[n > 5] }}"),
]

ATOMS = NAMES + ["1", "2", "-1", "0", "1.5", "'a'", "'b c'", "''", "[1, 'x']", "{'k': 1}", "(1, 2)", "none", "true", "range(3)", "users[0]", "users[0].name", "d.a", "'%s'"]
BINARY = ["+", "-", "*", "//", "/", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "first", "last", "list", "join", "join(',')", "sort", "reverse", "reverse|list", "unique|list",
           "default('D')", "default('D', true)", "int", "float", "abs", "round", "string", "tojson", "e", "min", "max", "sum", "wordcount", "replace('a', 'Z')", "indent",
           "map('upper')|list", "map('string')|list", "select|list", "reject('none')|list", "items|list", "dictsort", "batch(2)|list", "slice(2)|list", "center(9)",
           "truncate(5)", "urlencode", "map(attribute='name')|list", "groupby('name')", "sort(attribute='name')", "selectattr('name')|list", 
           "format(1)", "attr('name')", "count", "safe", "forceescape"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "odd", "even", "callable", "true", "false", "upper",
         "lower", "divisibleby 2", "in [1, 'a']", "eq 1", "lt 2", "escaped", "sameas none"]
METHODS = [".upper()", ".split()", ".strip()", ".items()", ".keys()", ".get('k')", ".get('b', 0)", ".name", ".k", "[0]", "[-1]", "['k']", "[1:]", "[::-1]", ".startswith('a')", ".format(1)",
           ".join(['p', 'q'])", ".count('a')", ".index(1)", ".title()", ".find('a')", ".values()", ".replace('a', 'b')", ".splitlines()", "[:2]", "['name']", ".0"]


def expression(r, depth):
    kind = r.random()
    if depth == 0 or kind < 0.15:
        return r.choice(ATOMS)
    a = expression(r, depth - 1)
    if kind < 0.4:
        return f"({a} {r.choice(BINARY)} {expression(r, depth - 1)})"
    if kind < 0.65:
        return f"({a})|{r.choice(FILTERS)}"
    if kind < 0.75:
        return f"(({a}) is {r.choice(['', 'not '])}{r.choice(TESTS)})"
    if kind < 0.9:
        return f"({a}){r.choice(METHODS)}"
    if kind < 0.95:
        return f"({a} if {expression(r, depth - 1)} else {expression(r, depth - 1)})"
    return f"[{a}, {expression(r, depth - 1)}]"


def vector(env, feature, source):
    out = {"feature": feature, "source": source, "context": {k: v for k, v in CONTEXT.items() if k in source}}
    if "strftime_now" in source:
        out["now"] = NOW.isoformat()
    try:
        out["expected"] = env.from_string(source).render(**out["context"])
    except jinja2.exceptions.TemplateSyntaxError as e:
        out["error"] = {"kind": "syntax", "message": str(e)}
    except jinja2.exceptions.TemplateError as e:
        ours = type(e) is jinja2.exceptions.TemplateError
        out["error"] = {"kind": "raise_exception" if ours else "runtime", "message": str(e)}
    except Exception as e:  # whatever Python raises inside a template
        out["error"] = {"kind": "runtime", "message": f"{type(e).__name__}: {e}"}
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    env, r = environment(), random.Random(a.seed)
    rows = ROWS + [(f"random-{i}", "{{ " + expression(r, r.randint(1, 3)) + " }}") for i in range(a.random)]
    with open(a.out, "w", encoding="utf-8") as f:
        for feature, source in rows:
            v = vector(env, feature, source)
            if " at 0x" in v.get("expected", "") or "Markup(" in v.get("expected", ""):
                continue  # an address, or a class of Jinja2's own
            f.write(json.dumps(v, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
