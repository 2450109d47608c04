/* A product of matrices, by OpenBLAS with the threads that it chooses. */
#include <cblas.h>
#include <stdlib.h>

extern int openblas_get_num_threads(void);

int threads(void) { return openblas_get_num_threads(); }

double kernel(int item) {
    enum { N = 900 };
    double *a = malloc(3 * N * N * sizeof(double));
    if (!a)
        abort();
    double *b = a + N * N, *c = b + N * N;
    for (int i = 0; i < N * N; i++) {
        a[i] = (i + item) % 7;
        b[i] = i % 5;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, a, N, b, N, 0, c, N);
    double sum = 0;
    for (int i = 0; i < N * N; i++)
        sum += c[i];
    free(a);
    return sum;
}
