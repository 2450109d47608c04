#!/usr/bin/env bash
# valgrind 3.19.0 (Debian's 1:3.19.0-1): /proc/self/exe is two different files to the program that it runs, by which call asks.
# readlink and open give the program itself; stat and execve give valgrind's own tool. So a program that starts itself again by
# the link, as many do to be safe from a path that was replaced, starts the tool, which ends by exit code 1; by the path that
# readlink gives it starts itself. And who compares the link's stat with that of its opened file sees another device and inode.
#
# Seen:  readlink: the program    open: the program    stat: another file
#        execve of the link: "valgrind: You cannot run 'program' directly.", exit code 1
#        execve of readlink's path: started again
# Takes gcc and apt-get with Debian 12's packages (nothing is installed outside of a temporary folder), on x86-64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download valgrind=1:3.19.0-1
dpkg-deb -x valgrind_*.deb root
cat >program.c <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int count, char **given) {
    char path[4096] = "";
    struct stat link, opened, named;
    if (count > 1 && !strcmp(given[1], "again")) { puts("started again"); return 0; }
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return 2;
    stat("/proc/self/exe", &link);
    stat(path, &named);
    fstat(open("/proc/self/exe", O_RDONLY), &opened);
    printf("open: %s\n", opened.st_ino == named.st_ino ? "the program" : "another file");
    printf("stat: %s\n", link.st_ino == named.st_ino ? "the program" : "another file");
    fflush(stdout);
    execl(!strcmp(given[1], "link") ? "/proc/self/exe" : path, "program", "again", (char *)0);
    return 3;
}
C
gcc -O1 -o program program.c
run() { VALGRIND_LIB="$folder/root/usr/libexec/valgrind" "$folder/root/usr/bin/valgrind.bin" -q ./program "$1" 2>&1; }
by_link=$(run link) || ended=$?
by_path=$(run path)
plain=$(./program link)
printf '%s\n' "by the link:" "$by_link" "ended by ${ended:-0}" "by the path:" "$by_path" "without valgrind:" "$plain"
[[ $by_link == *"open: the program"*"stat: another file"*"You cannot run '"*"' directly"* ]] && [ "${ended:-0}" = 1 ] &&
  [[ $by_path == *"started again" ]] && [ "$plain" = $'open: the program\nstat: the program\nstarted again' ]
