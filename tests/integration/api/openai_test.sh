#!/bin/sh
# Runs openai_test.py and openai_tools_test.py with a Python that has the openai package: SLUICE_VENV, else the venv given as $1. 77 when there is none.
# $2 is the server program.
venv=${SLUICE_VENV:-$1}
python=$venv/bin/python
if ! [ -x "$python" ] || ! "$python" -c 'import openai' 2>/dev/null; then
    echo "skipped: no Python with the openai package; python3 -m venv $1 && $1/bin/pip install openai"
    exit 77
fi
"$python" "$(dirname "$0")/openai_test.py" "$2" && exec "$python" "$(dirname "$0")/openai_tools_test.py" "$2"
