#!/usr/bin/env python3
"""lint.py - runs lint checks by name and prints their findings; status 1 when there are any.

    lint.py CHECK... --source DIR [--build DIR --program FILE --cc CC --cxx CXX --flags "-I..." --cuda]"""
import argparse
import sys

import built
import docs
import includes
import shape
from tree import Tree

CHECKS = {
    "directions": includes.check_directions,
    "homes": includes.check_homes,
    "doors": includes.check_doors,
    "sizes": shape.check_sizes,
    "functions": shape.check_functions,
    "words": shape.check_words,
    "modes": shape.check_modes,
    "links": docs.check_links,
    "places": docs.check_places,
    "readmes": docs.check_readmes,
    "symbols": built.check_symbols,
    "headers": built.check_headers,
    "sources": built.check_sources,
    "tests": built.check_tests,
    "help": built.check_help,
}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("checks", nargs="+", choices=sorted(CHECKS), metavar="CHECK")
    p.add_argument("--source", required=True)
    p.add_argument("--build")
    p.add_argument("--program")
    p.add_argument("--cc", default="cc")
    p.add_argument("--cxx", default="c++")
    p.add_argument("--flags", default="")
    p.add_argument("--cuda", action="store_true", help="the build has CUDA, whose headers --flags find")
    a = p.parse_args()
    tree = Tree(a.source, a.build, a.program, {"c": a.cc, "c++": a.cxx, "flags": a.flags.split(), "cuda": a.cuda})
    findings = [f for name in a.checks for f in CHECKS[name](tree)]
    print("\n".join(findings) if findings else f"{', '.join(a.checks)}: nothing found in {len(tree.files)} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
