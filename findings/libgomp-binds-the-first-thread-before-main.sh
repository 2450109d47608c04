#!/usr/bin/env bash
# libgomp, as the wheel scikit-learn 1.7.2 brings it: with OMP_PROC_BIND=true or OMP_PLACES in the environment, as clusters set
# them, its constructor binds the process's first thread to one core before `main` begins, whether or not a parallel region ever
# runs. Threads and processes that this thread starts inherit that one core: programs linked with it see one core, size their
# pools for one, and run all of their children on it. (The specification speaks of the threads of parallel regions.)
#
# Seen (two cores):  no variable                                 2 cores, a child has 2
#                    OMP_PROC_BIND=true                          1 core, a child has 1
#                    OMP_PLACES=cores                            1 core, a child has 1
#                    OMP_PLACES=cores OMP_PROC_BIND=false        2 cores, a child has 2
# Takes Python 3.11 with pip, on x86-64 with two cores or more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: scikit-learn==1.7.2
python3 -m zipfile -e scikit_learn-*.whl wheel
library=$(echo "$folder"/wheel/scikit_learn.libs/libgomp-*.so.*)
cat >look.py <<'PYTHON'
import os, subprocess, sys
print(len(os.sched_getaffinity(0)), subprocess.run([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"],
      capture_output=True, text=True, env={}).stdout.strip())
PYTHON
look() { env -u OMP_PROC_BIND -u OMP_PLACES -u GOMP_CPU_AFFINITY LD_PRELOAD="$library" "$@" python3 look.py; }
all=$(python3 -c 'import os; print(len(os.sched_getaffinity(0)))')
none=$(look)
bound=$(look OMP_PROC_BIND=true)
places=$(look OMP_PLACES=cores)
off=$(look OMP_PLACES=cores OMP_PROC_BIND=false)
printf '%s\n' "no variable: $none" "OMP_PROC_BIND=true: $bound" "OMP_PLACES=cores: $places" "and OMP_PROC_BIND=false: $off"
[ "$none" = "$all $all" ] && [ "$bound" = "1 1" ] && [ "$places" = "1 1" ] && [ "$off" = "$all $all" ]
