{{/* Labels of everything. */}}
{{- define "tulle.labels" -}}
app.kubernetes.io/part-of: tulle
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* An image: (list . "name"). */}}
{{- define "tulle.image" -}}
{{- $root := index . 0 -}}
{{- printf "%s/%s:%s" $root.Values.image.registry (index . 1) (default $root.Chart.AppVersion $root.Values.image.tag) -}}
{{- end }}

{{- define "tulle.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Annotations of pods: (list . port annotations). */}}
{{- define "tulle.podAnnotations" -}}
{{- $root := index . 0 -}}
{{- $scrape := dict -}}
{{- if $root.Values.metrics.annotations -}}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/port" (index . 1) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- with merge (deepCopy (index . 2)) $scrape }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A variable that holds a field of the pod: (list "NAME" "path"). */}}
{{- define "tulle.field" -}}
- name: {{ index . 0 }}
  valueFrom: {fieldRef: {fieldPath: {{ index . 1 }}}}
{{- end }}

{{/* Runs on every node, whatever its taints. */}}
{{- define "tulle.everywhere" -}}
priorityClassName: system-node-critical
nodeSelector:
  kubernetes.io/os: linux
  {{- with . }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
tolerations:
- {effect: NoSchedule, operator: Exists}
- {effect: NoExecute, operator: Exists}
- {key: CriticalAddonsOnly, operator: Exists}
{{- end }}
