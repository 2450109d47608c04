/* Preloaded into a host under valgrind, where /proc/self/exe would start valgrind itself (seen with 3.19):
   starts the executable that FASTMAP_BENCH_EXECUTABLE names instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>

typedef int spawn_function(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                           char *const[], char *const[]);

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    const char *executable = getenv("FASTMAP_BENCH_EXECUTABLE");
    spawn_function *spawn = (spawn_function *)dlsym(RTLD_NEXT, "posix_spawnp");
    if (executable != NULL && strcmp(file, "/proc/self/exe") == 0)
        file = executable;
    return spawn(pid, file, actions, attributes, arguments, environment);
}
