/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions and interrupts: to a handler, or back to the try() they happened in, or the end. */
#include "guest.h"

bool catch (guest_fn *fn, word_t a, word_t b, word_t *result);
void catch_unwind(void) __attribute__((noreturn));
void enter_user(guest_fn *fn, word_t a, word_t b, word_t flags, word_t stack)
    __attribute__((noreturn));
void trap_dispatch(struct frame *f);
extern word_t catch_sp;

static trap_handler *handlers[256];
static struct trap caught;
static uint8_t user_stack[8192] __attribute__((aligned(16)));
word_t user_flags = 2;

void trap_handle(unsigned vec, trap_handler *h)
{
    handlers[vec] = h;
}

void trap_dispatch(struct frame *f)
{
    if (f->vec < 256 && handlers[f->vec]) {
        handlers[f->vec](f);
        return;
    }
    caught.f = *f;
    caught.vec = f->vec;
    caught.err = f->err;
    caught.cr2 = read_cr2();
    if (catch_sp)
        catch_unwind();
    print("# unexpected vector %u, error %x, cr2 %lx, at %lx:%lx, flags %lx\n", (unsigned)f->vec,
          (unsigned)f->err, (unsigned long)caught.cr2, (unsigned long)f->cs, (unsigned long)f->ip,
          (unsigned long)f->flags);
    expect(HERE, false, "no unexpected exception");
    guest_end();
}

struct trap try(guest_fn *fn, word_t a, word_t b)
{
    word_t result = 0;

    if (catch (fn, a, b, &result))
        return caught;
    return (struct trap){ .vec = VEC_NONE, .f = { .ax = result } };
}

struct user_call {
    guest_fn *fn;
    word_t a, b;
};

#ifdef __x86_64__
static void *as_user(const volatile void *p)
{
    return user_ptr(p);
}
#else
static void *as_user(const volatile void *p)
{
    return (void *)p;
}
#endif

static word_t run_user(word_t call, word_t unused)
{
    const struct user_call *c = (const struct user_call *)call;

    (void)unused;
    enter_user((guest_fn *)as_user((void *)c->fn), c->a, c->b, user_flags,
               (word_t)as_user(user_stack + sizeof(user_stack)));
}

struct trap try_user(guest_fn *fn, word_t a, word_t b)
{
    struct user_call c = { fn, a, b };

    return try(run_user, (word_t)&c, 0);
}
