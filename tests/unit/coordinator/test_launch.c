/* test_launch.c - child processes: how their end is told, and that none outlives its coordinator.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "coordinator/launch.h"

struct rig {
    uv_loop_t loop;
    struct sl_node node;
    struct sl_device device;
    struct sl_child *child;
    int exits, status;
    char last[256];
};

static void on_exit_told(void *arg, int status, const char *last_line)
{
    struct rig *r = arg;
    r->exits++;
    r->status = status;
    snprintf(r->last, sizeof r->last, "%s", last_line);
}

static int start(struct rig *r, const char *program, struct sl_err *err)
{
    memset(r, 0, sizeof *r);
    uv_loop_init(&r->loop);
    r->node = (struct sl_node){
        .name = "here", .host = "127.0.0.1", .launch = SL_LAUNCH_LOCAL, .program = program};
    r->device = (struct sl_device){.name = "here/0"};
    struct sl_launch_params p = {.program = program,
                                 .control = "127.0.0.1:1",
                                 .join_key = "secret",
                                 .node = &r->node,
                                 .device = &r->device,
                                 .on_exit = on_exit_told,
                                 .arg = r};
    return sl_launch(&r->loop, &p, &r->child, err);
}

static void finish(struct rig *r)
{
    uv_run(&r->loop, UV_RUN_DEFAULT); /* ends, since every handle closes itself */
    assert_int_equal(uv_loop_close(&r->loop), 0);
}

/* Writes a shell script to run instead of sluice; unlink it. */
static void script(char path[64], const char *body)
{
    snprintf(path, 64, "/tmp/sluice-child-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    dprintf(fd, "#!/bin/sh\n%s\n", body);
    assert_int_equal(fchmod(fd, 0700), 0);
    close(fd);
}

static void run_script(struct rig *r, const char *body)
{
    char path[64];
    struct sl_err e = {0};
    script(path, body);
    if (start(r, path, &e)) fail_msg("%s", e.msg);
    finish(r);
    unlink(path);
    assert_int_equal(r->exits, 1);
}

static void test_ends(void **state)
{
    (void)state;
    struct rig r;
    struct sl_err e = {0};
    assert_int_equal(start(&r, "/bin/false", &e), 0);
    finish(&r);
    assert_int_equal(r.exits, 1);
    assert_int_equal(r.status, 1);
    assert_string_equal(r.last, "");

    run_script(&r, "echo first >&2; echo last words >&2; exit 3");
    assert_int_equal(r.status, 3);
    assert_string_equal(r.last, "last words");
    run_script(&r, "printf 'no newline' >&2; kill -9 $$");
    assert_int_equal(r.status, -9);
    assert_string_equal(r.last, "no newline");
    run_script(&r, "head -c 100000 /dev/zero | tr '\\0' x >&2"); /* one endless line is cut */
    assert_int_equal(r.status, 0);
    assert_int_equal(strlen(r.last), sizeof r.last - 1);
}

/* The key is in the environment and not among the arguments; standard input is empty; no file of
 * ours is open. */
static void test_what_it_gets(void **state)
{
    (void)state;
    struct rig r;
    int ours = open("/dev/null", O_RDONLY | O_CLOEXEC);
    run_script(&r, "echo \"$SLUICE_JOIN_KEY $SLUICE_PARENT $* $(cat | wc -c)\" >&2");
    char want[200];
    snprintf(want, sizeof want,
             "secret %d stage --join 127.0.0.1:1 --device here/0 --log-level warn 0",
             (int)getpid());
    assert_string_equal(r.last, want);
    close(ours);
}

/* A grandchild that keeps stderr open does not keep the news from us. */
static void test_grandchild(void **state)
{
    (void)state;
    struct rig r;
    run_script(&r, "sleep 20 & echo bye >&2; exit 4");
    assert_int_equal(r.status, 4);
    assert_string_equal(r.last, "bye");
}

static void test_no_program(void **state)
{
    (void)state;
    struct rig r;
    struct sl_err e = {0};
    assert_int_equal(start(&r, "/nonexistent/sluice", &e), SL_EINPUT);
    assert_non_null(strstr(e.msg, "/nonexistent/sluice"));
    finish(&r);
    assert_int_equal(r.exits, 0);
}

static void test_abandon(void **state)
{
    (void)state;
    struct rig r;
    struct sl_err e = {0};
    char path[64];
    script(path, "trap '' TERM; exec sleep 1000");
    for (int grace = 0; grace <= 100;
         grace += 100) { /* at once, or after it did not leave by itself */
        assert_int_equal(start(&r, path, &e), 0);
        sl_child_abandon(r.child, grace);
        finish(&r);
        assert_int_equal(r.exits, 0);
    }
    unlink(path);
    script(path, "exit 0"); /* leaves within its time: the loop does not wait for the rest of it */
    assert_int_equal(start(&r, path, &e), 0);
    sl_child_abandon(r.child, 1000000);
    finish(&r);
    assert_int_equal(r.exits, 0);
    unlink(path);
}

/* A coordinator is killed: its stage, which is still looking for it, dies with it. We inherit and
 * reap the stage. */
static void test_orphan(void **state)
{
    (void)state;
    int p[2], status;
    pid_t stage = 0;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    assert_int_equal(pipe(p), 0);
    pid_t coordinator = fork();
    if (coordinator == 0) {
        static struct rig r;
        struct sl_err e;
        if (start(&r, SLUICE_PROGRAM, &e)) _exit(1);
        stage = sl_child_pid(r.child);
        if (write(p[1], &stage, sizeof stage) != (ssize_t)sizeof stage) _exit(1);
        uv_run(&r.loop, UV_RUN_DEFAULT);
        _exit(0);
    }
    assert_int_equal(read(p[0], &stage, sizeof stage), sizeof stage);
    assert_int_equal(kill(coordinator, SIGKILL), 0);
    assert_int_equal(waitpid(coordinator, &status, 0), coordinator);
    assert_int_equal(waitpid(stage, &status, 0),
                     stage); /* it would look for a minute: the test's limit is less */
    assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
                (WIFEXITED(status) && WEXITSTATUS(status) == 1));
    close(p[0]);
    close(p[1]);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),       cmocka_unit_test(test_what_it_gets),
        cmocka_unit_test(test_grandchild), cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_abandon),    cmocka_unit_test(test_orphan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
