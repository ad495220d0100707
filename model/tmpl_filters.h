/* tmpl_filters.h - private to model/: the second table of filters. */
#ifndef SL_MODEL_TMPL_FILTERS_H
#define SL_MODEL_TMPL_FILTERS_H

#include "model/tmpl.h"

const struct sl_tmpl_builtin *sl_tmpl_list_filter_find(const char *name,
                                                       size_t n); /* tmpl_func.c */

#endif
