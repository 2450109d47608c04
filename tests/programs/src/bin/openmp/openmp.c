/* A sum of sines, shared among the threads of OpenMP. */
#include <math.h>
#include <omp.h>

int threads(void) {
    int count = 1;
#pragma omp parallel
#pragma omp single
    count = omp_get_num_threads();
    return count;
}

double kernel(int item) {
    double sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
    for (int i = 0; i < 2000000; i++)
        sum += sin(i + 0.5 * item);
    return sum;
}
